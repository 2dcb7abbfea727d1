//! The programs that are attached to cgroups: a node loads them once.

#![no_std]
#![no_main]

use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr, cgroup_sockopt, sock_ops};
use aya_ebpf::programs::{SockAddrContext, SockContext, SockOpsContext, SockoptContext};
use mesh_init_ebpf::{answer, handover, listener, outbound};

#[cgroup_sock_addr(connect4)]
fn mesh_connect4(context: SockAddrContext) -> i32 {
    outbound::connect4(context.sock_addr)
}

#[cgroup_sock_addr(connect6)]
fn mesh_connect6(context: SockAddrContext) -> i32 {
    outbound::connect6(context.sock_addr)
}

#[cgroup_sock_addr(sendmsg4)]
fn mesh_sendmsg4(context: SockAddrContext) -> i32 {
    outbound::sendmsg4(context.sock_addr)
}

#[cgroup_sock_addr(sendmsg6)]
fn mesh_sendmsg6(context: SockAddrContext) -> i32 {
    outbound::sendmsg6(context.sock_addr)
}

#[cgroup_sock_addr(recvmsg4)]
fn mesh_recvmsg4(context: SockAddrContext) -> i32 {
    answer::name4(context.sock_addr)
}

#[cgroup_sock_addr(recvmsg6)]
fn mesh_recvmsg6(context: SockAddrContext) -> i32 {
    answer::name6(context.sock_addr)
}

#[cgroup_sock_addr(getpeername4)]
fn mesh_peername4(context: SockAddrContext) -> i32 {
    answer::name4(context.sock_addr)
}

#[cgroup_sock_addr(getpeername6)]
fn mesh_peername6(context: SockAddrContext) -> i32 {
    answer::name6(context.sock_addr)
}

#[cgroup_sock(sock_create)]
fn mesh_create(context: SockContext) -> i32 {
    listener::made(context.sock)
}

#[cgroup_sock(post_bind4)]
fn mesh_bind4(context: SockContext) -> i32 {
    listener::bound(context.sock)
}

#[cgroup_sock(post_bind6)]
fn mesh_bind6(context: SockContext) -> i32 {
    listener::bound(context.sock)
}

#[sock_ops]
fn mesh_sockops(context: SockOpsContext) -> u32 {
    handover::called_back(context.ops)
}

#[cgroup_sockopt(getsockopt)]
fn mesh_getsockopt(context: SockoptContext) -> i32 {
    answer::original_destination(context.sockopt)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// `bpf_bind`, `bpf_sk_storage_get` and others are for programs under the GPL or a licence that goes with it.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
