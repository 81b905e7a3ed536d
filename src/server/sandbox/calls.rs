//! Calls to the system that a proxy never makes. They fail with EPERM.
//!
//! A list of what is denied and not of what is allowed: which calls the C library, the allocator and the runtime make changes with their
//! versions and with the machine, and a proxy that dies of a library's update is the greater harm. What is denied here is what turns a hold
//! on the process into one on the machine: other programs, other processes' memory, mounts, modules, keys, namespaces, and parts of the
//! kernel with a history. They fail, and don't kill: a library that only tries goes on.
//!
//! The verdict depends on the call's number and the architecture alone. So the kernel (since 5.11) finds it out once for each call, and does
//! not run the program again: its length and order cost nothing. A rule about an argument would change that for its call.

use std::collections::BTreeMap;
use std::io;

use libc::c_long;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

const DENIED: &[c_long] = &[
    // Other programs, and other processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Mounts and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_open_by_handle_at,
    libc::SYS_mknodat,
    // The kernel itself.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_personality,
    libc::SYS_vhangup,
    // What has often been a way into it.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
];

#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[c_long] =
    &[libc::SYS_kexec_file_load, libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt, libc::SYS_mknod, libc::SYS_uselib];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[c_long] = &[];

/// On x86-64 each call has a second number, and some have a third (x32): they would pass by a list that does not know them.
#[cfg(target_arch = "x86_64")]
const X32: c_long = 0x4000_0000;
#[cfg(target_arch = "x86_64")]
const X32_OWN: &[c_long] = &[520, 521, 528, 539, 540, 545];

/// The filter, for this machine.
pub(super) fn filter() -> io::Result<BpfProgram> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| io::Error::other(error.to_string()))?;
    // No condition: whatever the arguments.
    let rules: BTreeMap<i64, Vec<_>> = denied().map(|call| (call, Vec::new())).collect();
    let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, arch);
    let program = filter.and_then(BpfProgram::try_from);
    program.map_err(|error| io::Error::other(error.to_string()))
}

fn denied() -> impl Iterator<Item = c_long> {
    let calls = DENIED.iter().chain(DENIED_HERE).copied();
    #[cfg(target_arch = "x86_64")]
    let calls = calls.clone().chain(calls.map(|call| call | X32)).chain(X32_OWN.iter().map(|call| call | X32));
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_can_be_built_here_and_is_short_enough() {
        let filter = filter().unwrap();
        assert!((DENIED.len()..4096).contains(&filter.len()), "{}", filter.len());
    }

    #[test]
    fn the_kernel_can_remember_its_verdicts() {
        // What `seccomp_is_const_allow` of the kernel follows: loads of number and architecture, jumps, returns.
        const LOAD: u16 = 0x20;
        const JUMPS: [u16; 5] = [0x05, 0x15, 0x25, 0x35, 0x45];
        const RETURN: u16 = 0x06;
        for step in filter().unwrap() {
            let known = match step.code {
                LOAD => matches!(step.k, 0 | 4),
                code => JUMPS.contains(&code) || code == RETURN,
            };
            assert!(known, "{step:?}");
        }
    }
}
