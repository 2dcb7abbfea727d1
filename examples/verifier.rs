//! Measures what the kernel's verifier does for each BPF program of the objects that it is given, and compares it with
//! a budget: `verifier [--against BUDGET] OBJECT...`. Without one, it prints the table that is one.
//!
//! The programs are verified and dropped again, never attached. First it gives up every capability but the two that
//! loading takes, for without CAP_PERFMON the verifier takes less of a program and follows more of its paths. A node's
//! agent has no more than these two.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::ExitCode;
use std::{env, fs, mem};

use aya::EbpfLoader;
use aya::maps::Map;
use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_prog_type};
use aya_obj::{Object, Program, ProgramSection};
use caps::{CapSet, Capability};
use nix::libc;

/// What goes wrong, in words.
type Fault = Box<dyn Error>;

/// What the verifier's log says of a program when it is loaded with `BPF_LOG_STATS` (kernel/bpf/verifier.c,
/// `print_verification_stats`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cost {
    /// Instructions that it followed, the same one on two paths counting twice; the kernel's limit is a million.
    instructions: u64,
    /// States that it held at once.
    states: u64,
    /// Bytes of stack of the program and all its functions together.
    stack: u64,
}

/// What each program costs, and with which kernel.
#[derive(Debug)]
struct Table {
    /// Major and minor number, `6.18`.
    kernel: String,
    costs: BTreeMap<String, Cost>,
}

fn main() -> ExitCode {
    let given: Vec<String> = env::args().skip(1).collect();
    let done = match given.split_first() {
        Some((option, [budget, objects @ ..])) if option == "--against" => {
            against(Path::new(budget), objects)
        }
        Some((first, _)) if !first.starts_with('-') => table(&given),
        _ => Err("usage: verifier [--against BUDGET] OBJECT...".into()),
    };
    match done.and_then(|text| Ok(io::stdout().write_all(text.as_bytes())?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            // There is nobody left to tell when the terminal is gone.
            writeln!(io::stderr(), "verifier: {fault}").ok();
            ExitCode::FAILURE
        }
    }
}

fn table(objects: &[String]) -> Result<String, Fault> {
    Ok(measure(objects)?.to_string())
}

fn against(budget: &Path, objects: &[String]) -> Result<String, Fault> {
    let text =
        fs::read_to_string(budget).map_err(|fault| format!("cannot read {}: {fault}", budget.display()))?;
    let allowed = Table::read(&text)?;
    let found = measure(objects)?;
    let faults = allowed.faults(&found);
    if !faults.is_empty() {
        return Err(format!(
            "the verifier's work is not what {} allows; if it is meant to change, write it anew:\n{faults}",
            budget.display()
        )
        .into());
    }
    let kernel = &found.kernel;
    Ok(match kernel == &allowed.kernel {
        true => format!("{} programs cost what the budget says\n", found.costs.len()),
        false => format!(
            "{} programs cost at most twice what the budget says, which is that of Linux {}; this is {kernel}\n",
            found.costs.len(),
            allowed.kernel
        ),
    })
}

fn measure(objects: &[String]) -> Result<Table, Fault> {
    let mut files = Vec::new();
    for path in objects {
        files.push((path, fs::read(path).map_err(|fault| format!("cannot read {path}: {fault}"))?));
    }
    give_up_privileges()?;
    let mut costs = BTreeMap::new();
    for (path, bytes) in files {
        for (name, cost) in verify(&bytes).map_err(|fault| format!("{path}: {fault}"))? {
            if costs.insert(name.clone(), cost).is_some() {
                return Err(format!("{path}: {name} is the name of a program of another object, too").into());
            }
        }
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let kernel = release.split('.').take(2).collect::<Vec<_>>().join(".");
    Ok(Table { kernel, costs })
}

/// Keeps CAP_BPF and CAP_NET_ADMIN (capabilities(7)).
fn give_up_privileges() -> Result<(), Fault> {
    let kept = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN].into();
    let refused = |fault| format!("needs CAP_BPF and CAP_NET_ADMIN, run it as root: {fault}");
    caps::set(None, CapSet::Effective, &kept).map_err(refused)?;
    Ok(caps::set(None, CapSet::Permitted, &kept).map_err(refused)?)
}

/// Has every program of an object verified.
fn verify(bytes: &[u8]) -> Result<Vec<(String, Cost)>, Fault> {
    // It makes the maps, and loads no program before it is told to.
    let loaded = EbpfLoader::new().load(bytes)?;
    let mut numbers: HashMap<&str, RawFd> = HashMap::new();
    for (name, map) in loaded.maps() {
        numbers
            .insert(name, number(map).ok_or_else(|| format!("map {name}: a type that is not known here"))?);
    }

    let mut object = Object::parse(bytes)?;
    let maps = mem::take(&mut object.maps);
    let sections = object.functions.keys().map(|(section, _)| *section).collect();
    let placed =
        maps.iter().filter_map(|(name, map)| Some((name.as_str(), *numbers.get(name.as_str())?, map)));
    object.relocate_maps(placed, &sections)?;
    object.relocate_calls(&sections)?;

    let mut costs = Vec::new();
    for (name, program) in &object.programs {
        let cost = load(&object, program).map_err(|fault| format!("{name}: {fault}"))?;
        costs.push((name.clone(), cost));
    }
    Ok(costs)
}

/// The file descriptor of a map of the types that the programs use.
fn number(map: &Map) -> Option<RawFd> {
    let (Map::Array(map)
    | Map::HashMap(map)
    | Map::LruHashMap(map)
    | Map::LpmTrie(map)
    | Map::SockHash(map)
    | Map::SkStorage(map)) = map
    else {
        return None;
    };
    Some(map.fd().as_fd().as_raw_fd())
}

/// The verifier's log holds three lines if all is well, and as much as fits here if it is not.
const LOG: u32 = 1 << 20;
/// Statistics alone, `BPF_LOG_STATS` of include/linux/bpf_verifier.h, which is no UAPI header but is stable.
const STATISTICS: u32 = 4;

/// Loads the program, bpf(2), and says what that cost.
#[expect(unsafe_code, reason = "aya loads programs, too, but gives the log of those alone that are refused")]
fn load(object: &Object, program: &Program) -> Result<Cost, Fault> {
    let key = (program.section_index, program.address);
    let function = object.functions.get(&key).ok_or("has no instructions")?;
    let (kind, attach) = types(&program.section)?;
    let mut log = vec![0_u8; usize::try_from(LOG)?];

    // SAFETY: a union of plain numbers, for which the kernel wants zeros where nothing is said.
    let mut attributes: bpf_attr = unsafe { mem::zeroed() };
    // SAFETY: the zeros are a value of this part of the union, too.
    let wanted = unsafe { &mut attributes.__bindgen_anon_3 };
    wanted.prog_type = kind as u32;
    wanted.expected_attach_type = attach.map_or(0, |attach| attach as u32);
    wanted.insns = function.instructions.as_ptr().addr().try_into()?;
    wanted.insn_cnt = function.instructions.len().try_into()?;
    wanted.license = program.license.as_ptr().addr().try_into()?;
    wanted.log_level = STATISTICS;
    wanted.log_buf = log.as_mut_ptr().addr().try_into()?;
    wanted.log_size = LOG;
    let size = mem::size_of::<bpf_attr>();
    // SAFETY: the addresses are of what outlives the call, with their true lengths.
    let answer =
        unsafe { libc::syscall(libc::SYS_bpf, bpf_cmd::BPF_PROG_LOAD as u32, &raw mut attributes, size) };
    let refused = io::Error::last_os_error();

    let said = String::from_utf8_lossy(log.split(|byte| *byte == 0).next().unwrap_or_default());
    if answer < 0 {
        return Err(format!("the kernel does not take it: {refused}\n{said}").into());
    }
    // SAFETY: the kernel has just given it to us, and nobody else knows it.
    drop(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(answer)?) });
    Cost::read(&said)
        .ok_or_else(|| format!("the log has other words than those that are read here:\n{said}").into())
}

/// The kernel's numbers for what a section's name means.
#[expect(clippy::wildcard_enum_match_arm, reason = "many kinds of programs are none of ours")]
fn types(section: &ProgramSection) -> Result<(bpf_prog_type, Option<bpf_attach_type>), Fault> {
    Ok(match section {
        ProgramSection::CgroupSock { attach_type } => {
            (bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK, Some((*attach_type).into()))
        }
        ProgramSection::CgroupSockAddr { attach_type } => {
            (bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR, Some((*attach_type).into()))
        }
        ProgramSection::CgroupSockopt { attach_type } => {
            (bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCKOPT, Some((*attach_type).into()))
        }
        ProgramSection::SkLookup => {
            (bpf_prog_type::BPF_PROG_TYPE_SK_LOOKUP, Some(bpf_attach_type::BPF_SK_LOOKUP))
        }
        ProgramSection::SockOps => (bpf_prog_type::BPF_PROG_TYPE_SOCK_OPS, None),
        other => return Err(format!("a kind of program that is not known here: {other:?}").into()),
    })
}

impl Cost {
    /// From the log.
    fn read(log: &str) -> Option<Cost> {
        let mut lines = log.lines();
        let stack = lines.find_map(|line| line.strip_prefix("stack depth "))?;
        let stack = stack.split('+').map(|depth| depth.trim().parse::<u64>().ok()).sum::<Option<u64>>()?;
        let processed: Vec<&str> = lines.find(|line| line.starts_with("processed "))?.split(' ').collect();
        let after = |word| {
            let at = processed.iter().position(|found| *found == word)?;
            processed.get(at.checked_add(1)?)?.parse().ok()
        };
        Some(Cost { instructions: after("processed")?, states: after("peak_states")?, stack })
    }

    fn within(&self, most: &Cost) -> bool {
        self.instructions <= most.instructions && self.states <= most.states && self.stack <= most.stack
    }

    const fn twice(&self) -> Cost {
        Cost {
            instructions: self.instructions.saturating_mul(2),
            states: self.states.saturating_mul(2),
            stack: self.stack.saturating_mul(2),
        }
    }
}

impl Table {
    /// From the text that `Display` writes.
    fn read(text: &str) -> Result<Table, Fault> {
        let mut table = Table { kernel: String::new(), costs: BTreeMap::new() };
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match *line.split_whitespace().collect::<Vec<_>>() {
                ["kernel", version] => table.kernel = version.to_owned(),
                [name, instructions, states, stack] => {
                    let number = |text: &str| {
                        text.parse().map_err(|fault| format!("budget: {fault}: {text}, in the line: {line}"))
                    };
                    let cost = Cost {
                        instructions: number(instructions)?,
                        states: number(states)?,
                        stack: number(stack)?,
                    };
                    table.costs.insert(name.to_owned(), cost);
                }
                _ => {
                    return Err(
                        format!("budget: neither a kernel nor a program with three numbers: {line}").into()
                    );
                }
            }
        }
        if table.kernel.is_empty() {
            return Err("budget: no line says of which kernel its numbers are".into());
        }
        Ok(table)
    }

    /// Where what was found is not what this allows: another number with the same kernel; more than twice with another,
    /// which follows paths in its own way. A line for each; none if all is well.
    fn faults(&self, found: &Table) -> String {
        let mut faults = String::new();
        let same = self.kernel == found.kernel;
        for (name, cost) in &found.costs {
            let fault = match self.costs.get(name) {
                None => format!("{name} has none; it costs {cost}"),
                Some(allowed) if same && cost != allowed => {
                    format!("{name} costs {cost}; allowed are {allowed}")
                }
                Some(allowed) if !same && !cost.within(&allowed.twice()) => {
                    format!("{name} costs {cost}; allowed are twice {allowed}")
                }
                Some(_) => continue,
            };
            // Writing into a string cannot fail.
            writeln!(faults, "  {fault}").ok();
        }
        for name in self.costs.keys().filter(|name| !found.costs.contains_key(*name)) {
            writeln!(faults, "  {name} is in no object").ok();
        }
        faults
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} instructions, {} states, {} bytes of stack",
            self.instructions, self.states, self.stack
        )
    }
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "# What the verifier does for each program: scripts/bpf-budget.sh measures and compares it."
        )?;
        writeln!(
            out,
            "# Loaded with CAP_BPF and CAP_NET_ADMIN alone. Another kernel follows paths in another way."
        )?;
        writeln!(out, "kernel {}", self.kernel)?;
        writeln!(out, "# {:<18} {:>12} {:>6} {:>5}", "program", "instructions", "states", "stack")?;
        for (name, Cost { instructions, states, stack }) in &self.costs {
            writeln!(out, "{name:<20} {instructions:>12} {states:>6} {stack:>5}")?;
        }
        Ok(())
    }
}
