//! The programs that are attached to cgroups: a node loads them once.

#![no_std]
#![no_main]

use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr, cgroup_sockopt, sock_ops};
use aya_ebpf::programs::{SockAddrContext, SockContext, SockOpsContext, SockoptContext};
use mesh_init_ebpf::outbound::{self, Call};
use mesh_init_ebpf::{answer, handover, listener};

#[cgroup_sock_addr(connect4)]
fn mesh_connect4(context: SockAddrContext) -> i32 {
    outbound::calls4(context.sock_addr, Call::Connect)
}

#[cgroup_sock_addr(connect6)]
fn mesh_connect6(context: SockAddrContext) -> i32 {
    outbound::calls6(context.sock_addr, Call::Connect)
}

#[cgroup_sock_addr(sendmsg4)]
fn mesh_sendmsg4(context: SockAddrContext) -> i32 {
    outbound::calls4(context.sock_addr, Call::Send)
}

#[cgroup_sock_addr(sendmsg6)]
fn mesh_sendmsg6(context: SockAddrContext) -> i32 {
    outbound::calls6(context.sock_addr, Call::Send)
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

mesh_init_ebpf::object!();
