//! What the kernel does with the rules: real connections between real network namespaces.
//!
//! `cargo test --test kernel` needs root. Every case runs in namespaces of its own (`child`), which is why
//! this binary has its own `main`; without root every case says that it was skipped, and under CI that fails.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "this binary is all test: it fails by panicking and talks to whoever runs it"
)]

#[path = "../support/mod.rs"]
mod support;

mod again;
mod ambient;
mod beside;
mod boot;
mod child;
mod classic;
mod clean;
mod cni;
mod confirm;
mod docker_dns;
mod ebpf;
mod explain;
mod failing;
mod foreign;
mod golden;
mod harness;
mod input;
mod install;
mod istio;
mod istio_dns;
mod istio_meet;
mod istio_ports;
mod istio_replace;
mod istio_tproxy;
mod judge;
mod kill;
mod link_local;
mod listing;
mod locks;
mod namespace;
mod native;
mod native_alone;
mod native_kill;
mod native_replace;
mod native_text;
mod native_wide;
mod nftables;
mod observe;
mod privilege;
mod probe;
mod regressions;
mod replace;
mod routing;
mod scoped;
mod scoped_order;
mod self_check;
mod status;
mod telling;
mod tools;
mod trace;
mod undo;
mod upstream;
mod verify;
mod verify_machine;
mod verify_repair;
mod wide;

use std::process::ExitCode;

fn main() -> ExitCode {
    let cases = [
        self_check::cases(),
        golden::cases(),
        listing::cases(),
        classic::cases(),
        scoped::cases(),
        scoped_order::cases(),
        wide::cases(),
        link_local::cases(),
        docker_dns::cases(),
        ebpf::cases(),
        again::cases(),
        clean::cases(),
        cni::cases(),
        ambient::cases(),
        observe::cases(),
        replace::cases(),
        routing::cases(),
        kill::cases(),
        failing::cases(),
        locks::cases(),
        tools::cases(),
        trace::cases(),
        privilege::cases(),
        namespace::cases(),
        input::cases(),
        beside::cases(),
        regressions::cases(),
        undo::cases(),
        upstream::cases(),
        verify::cases(),
        verify_machine::cases(),
        verify_repair::cases(),
        boot::cases(),
        confirm::cases(),
        nftables::cases(),
        probe::cases(),
        istio::cases(),
        istio_ports::cases(),
        istio_dns::cases(),
        istio_meet::cases(),
        istio_tproxy::cases(),
        istio_replace::cases(),
        judge::cases(),
        explain::cases(),
        status::cases(),
        native::cases(),
        native_alone::cases(),
        native_kill::cases(),
        native_replace::cases(),
        native_text::cases(),
        install::cases(),
        native_wide::cases(),
    ];
    let checks = [
        self_check::checks(),
        ebpf::checks(),
        cni::checks(),
        listing::checks(),
        replace::checks(),
        kill::checks(),
        istio_replace::checks(),
        native_kill::checks(),
        native_replace::checks(),
        judge::checks(),
    ];
    harness::main(&cases.into_iter().flatten().collect::<Vec<_>>(), checks.into_iter().flatten().collect())
}
