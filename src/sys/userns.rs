//! Ids of another user namespace (user_namespaces(7)).

#![expect(unsafe_code, reason = "only a process of one thread can enter a user namespace, so one is forked")]

use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, setns};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pipe, read};

use super::fs;
use crate::error::{Error, Result};

/// What ids of a user namespace are in ours.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ids {
    /// Its users.
    pub users: Vec<Range>,
    /// Its groups.
    pub groups: Vec<Range>,
}

/// A line of /proc/PID/uid_map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first id there.
    pub inside: u32,
    /// What it is here.
    pub outside: u32,
    /// How many follow each other.
    pub count: u32,
}

/// What `id` is here; nothing if nobody there has it.
#[must_use]
pub fn outside(ranges: &[Range], id: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let at = id.checked_sub(range.inside).filter(|at| *at < range.count)?;
        range.outside.checked_add(at)
    })
}

/// What the ids of `namespace` are, a user namespace.
///
/// # Errors
/// It cannot be entered: `CAP_SYS_ADMIN` is missing there.
pub fn ids(namespace: &OwnedFd) -> Result<Ids> {
    let failed = |what: &str, errno: nix::errno::Errno| {
        Error::refused(format!("reading the ids of the user namespace: {what}: {}", errno.desc()))
            .remedy("CAP_SYS_ADMIN is needed in it")
    };
    let (told, tell) = pipe().map_err(|errno| failed("a pipe", errno))?;
    let (wait, go) = pipe().map_err(|errno| failed("a pipe", errno))?;
    // SAFETY: the child calls nothing but setns(2), write(2), read(2) and _exit(2), which a signal handler could call, too.
    let child = match unsafe { fork() }.map_err(|errno| failed("a process", errno))? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            drop(go);
            let entered = setns(namespace.as_fd(), CloneFlags::CLONE_NEWUSER).is_ok();
            nix::unistd::write(&tell, &[u8::from(entered)]).ok();
            read(&wait, &mut [0]).ok();
            // SAFETY: it ends this process, and runs nothing that the parent would.
            unsafe { nix::libc::_exit(0) }
        }
    };
    drop((tell, wait));
    let mut entered = [0];
    let outcome = match read(&told, &mut entered) {
        Ok(1) if entered == [1] => of_process(child),
        Ok(_) => Err(failed("entering it", nix::errno::Errno::EPERM)),
        Err(errno) => Err(failed("a pipe", errno)),
    };
    drop(go);
    waitpid(child, None).ok();
    outcome
}

/// Seen from here the second number is an id of our own namespace.
fn of_process(process: Pid) -> Result<Ids> {
    let of = |name: &str| -> Result<Vec<Range>> {
        let text = fs::read_system(&format!("/proc/{process}/{name}"))?.unwrap_or_default();
        Ok(text.lines().filter_map(range).collect())
    };
    Ok(Ids { users: of("uid_map")?, groups: of("gid_map")? })
}

fn range(line: &str) -> Option<Range> {
    let mut numbers = line.split_whitespace().map(|number| number.parse::<u32>());
    let mut next = || numbers.next()?.ok();
    Some(Range { inside: next()?, outside: next()?, count: next()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_moved_by_range() {
        let ranges: Vec<Range> =
            ["         0     100000       1000", "5000 7 1"].into_iter().filter_map(range).collect();
        assert_eq!(outside(&ranges, 0), Some(100_000));
        assert_eq!(outside(&ranges, 999), Some(100_999));
        assert_eq!(outside(&ranges, 1000), None);
        assert_eq!(outside(&ranges, 5000), Some(7));
        assert_eq!(outside(&ranges, u32::MAX), None);
        assert_eq!(range("a b c"), None);
    }
}
