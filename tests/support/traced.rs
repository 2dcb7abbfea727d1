//! A program that is stopped at a system call of its own, to be killed there, or overtaken.

#![expect(unsafe_code, reason = "a child asks to be traced between fork and exec")]
#![expect(
    clippy::zombie_processes,
    reason = "what is traced is waited for by waitpid, which tells its stops too"
)]

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::command::{MESH_INIT, command};

/// How a traced run ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By itself, before it came to the stop.
    Early(i32),
    /// At the stop, or after it went on.
    At,
}

/// System calls after which nothing outside the process is different from before.
const HARMLESS: [libc::c_long; 18] = [
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_statx,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_getdents64,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_clock_gettime,
];

/// Commands of bpf(2) that change something outside the process, or make what another command changes it with.
const BPF_CHANGES: [u64; 11] = [0, 2, 3, 5, 6, 18, 22, 26, 27, 28, 29];

/// System calls that make, change or remove something in a file system.
const CHANGES: [libc::c_long; 11] = [
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_rmdir,
    libc::SYS_symlink,
    libc::SYS_symlinkat,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_mount,
];

/// Which system calls count as a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Calls {
    Every,
    /// But for those after which nothing outside is different.
    Lasting,
    /// Those alone that change a file system, or BPF's maps, programs and links.
    OfBpf,
}

/// Whether the run stands at the entry of a system call that counts.
fn counts(pid: Pid, calls: Calls) -> bool {
    let info = ptrace::syscall_info(pid).expect("asking at which system call it is");
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return false;
    }
    // SAFETY: this is the member that the kernel filled in at an entry.
    let number = unsafe { info.u.entry.nr };
    let is_of = |list: &[libc::c_long]| list.iter().any(|of| u64::try_from(*of) == Ok(number));
    match calls {
        Calls::Every => true,
        Calls::Lasting => !is_of(&HARMLESS),
        Calls::OfBpf if is_of(&[libc::SYS_bpf]) => {
            // SAFETY: as above.
            let command = unsafe { info.u.entry.args[0] };
            BPF_CHANGES.contains(&command)
        }
        Calls::OfBpf => is_of(&CHANGES),
    }
}

/// Runs the program to the entry of the `stop`th system call that counts, has `then` done there, and kills it or lets it go
/// on.
pub(crate) fn stopped<S: AsRef<OsStr>>(
    words: &[S],
    calls: Calls,
    stop: usize,
    kill: bool,
    then: impl FnOnce(),
) -> Ended {
    let mut traced = command(MESH_INIT, words);
    traced.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    // SAFETY: ptrace(2) with PTRACE_TRACEME is one system call, which is safe between fork and exec.
    unsafe { traced.pre_exec(|| ptrace::traceme().map_err(Into::into)) };
    let child = traced.spawn().expect("starting the program");
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let wait = || waitpid(pid, None).expect("waiting for the traced run");
    assert!(matches!(wait(), WaitStatus::Stopped(_, Signal::SIGTRAP)), "it stops behind exec");
    // Without it the kernel does not tell which call a stop is for.
    ptrace::setoptions(pid, ptrace::Options::PTRACE_O_TRACESYSGOOD).expect("tracing of system calls");
    let mut passed = 0;
    while passed <= stop {
        ptrace::syscall(pid, None).unwrap();
        let seen = wait();
        if let WaitStatus::Exited(_, code) = seen {
            return Ended::Early(code);
        }
        assert!(matches!(seen, WaitStatus::PtraceSyscall(_)), "{seen:?}");
        passed += usize::from(counts(pid, calls));
    }
    then();
    if kill {
        nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
        assert!(matches!(wait(), WaitStatus::Signaled(_, Signal::SIGKILL, _)));
    } else {
        ptrace::detach(pid, None).unwrap();
        assert_eq!(wait(), WaitStatus::Exited(pid, 0));
    }
    Ended::At
}
