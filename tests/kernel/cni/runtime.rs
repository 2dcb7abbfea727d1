//! A container runtime, as far as a plugin sees one.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::command::{MESH_INIT, PATH};
use crate::support::creds::Who;
use crate::support::netns::Netns;

/// The versions that are spoken, and those in which each verb is.
pub(crate) const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A call: environment, standard input, who makes it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    program: Vec<String>,
    environment: BTreeMap<String, OsString>,
    input: Vec<u8>,
    who: Who,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Call {
    /// A call of `verb` with nothing else in its environment.
    pub(crate) fn bare(verb: &str) -> Self {
        let environment = [("CNI_COMMAND".to_owned(), verb.into()), ("PATH".to_owned(), PATH.into())];
        Self {
            program: vec![MESH_INIT.to_owned()],
            environment: environment.into(),
            input: conf("1.1.0", ALL).into_bytes(),
            who: Who::ROOT,
        }
    }

    /// A call about the interface `eth0` of `pod`, with everything that runtimes set.
    pub(crate) fn about(verb: &str, pod: &Netns) -> Self {
        Self::at(verb, &pod.path())
    }

    pub(crate) fn at(verb: &str, netns: &Path) -> Self {
        Self::bare(verb)
            .env("CNI_CONTAINERID", "0123456789abcdef")
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/opt/cni/bin:/usr/lib/cni")
            .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME=web;K8S_POD_UID=u-1")
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        assert!(self.environment.remove(name).is_some(), "{name} was not set");
        self
    }

    pub(crate) fn conf(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.input = text.into();
        self
    }

    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.program.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// Calls by way of another program, which ends by running the plugin.
    pub(crate) fn through(mut self, words: &[&str]) -> Self {
        self.program = words.iter().map(|word| (*word).to_owned()).chain(self.program).collect();
        self
    }

    pub(crate) fn user(mut self, who: Who) -> Self {
        self.who = who;
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program[0]);
        command.args(&self.program[1..]).env_clear().envs(&self.environment);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let who = self.who;
        if who != Who::ROOT {
            command.gid(who.gid).uid(who.uid);
        }
        command
    }

    /// Starts it; nothing has been written to it yet.
    pub(crate) fn start(&self) -> Running {
        eprintln!(
            "+ {:?} {}",
            self.environment.get("CNI_COMMAND"),
            String::from_utf8_lossy(&self.input).chars().take(300).collect::<String>()
        );
        let begin = Instant::now();
        let child = self.command().spawn().expect("starting the plugin");
        Running { child, begin }
    }

    pub(crate) fn run(&self) -> Answer {
        let mut running = self.start();
        running.write(&self.input);
        running.finish()
    }

    /// With something else than a pipe as standard input.
    pub(crate) fn run_with(&self, input: Stdio) -> Answer {
        let begin = Instant::now();
        let child = self.command().stdin(input).spawn().expect("starting the plugin");
        Running { child, begin }.finish()
    }
}

/// A call that is being answered.
pub(crate) struct Running {
    child: Child,
    begin: Instant,
}

impl Running {
    /// Writes, and closes.
    pub(crate) fn write(&mut self, input: &[u8]) {
        // A plugin that has answered already need not read.
        drop(self.child.stdin.take().expect("a piped stdin").write_all(input));
    }

    /// Waits for the end; what was not closed stays open.
    pub(crate) fn finish(mut self) -> Answer {
        let open = self.child.stdin.take();
        let mut out = self.child.stdout.take().expect("a piped stdout");
        let mut errors = self.child.stderr.take().expect("a piped stderr");
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            errors.read_to_string(&mut text).expect("its words are UTF-8");
            text
        });
        let mut stdout = String::new();
        out.read_to_string(&mut stdout).expect("its answer is UTF-8");
        let status = self.child.wait().expect("waiting for a child of ours");
        let took = self.begin.elapsed();
        drop(open);
        let stderr = reader.join().expect("the reader");
        Answer { code: status.code(), stdout, stderr, took }
    }
}

impl Answer {
    /// Success; what is on standard output.
    #[track_caller]
    pub(crate) fn ok(&self) -> &str {
        assert_eq!(self.code, Some(0), "expected success, seen {self}");
        &self.stdout
    }

    /// Success without a word on standard output.
    #[track_caller]
    pub(crate) fn silent(&self) -> &Self {
        assert_eq!(self.ok(), "", "expected nothing on standard output, seen {self}");
        self
    }

    /// An error as the specification has it: a status other than 0, and one JSON object with the keys that there are.
    #[track_caller]
    pub(crate) fn fails(&self, code: u32) -> &Self {
        assert_eq!(self.code, Some(1), "expected a failure, seen {self}");
        let error: Value = serde_json::from_str(&self.stdout).unwrap_or_else(|why| panic!("{why}: {self}"));
        let keys = error.as_object().unwrap_or_else(|| panic!("no object: {self}"));
        for key in keys.keys() {
            assert!(["cniVersion", "code", "msg", "details"].contains(&key.as_str()), "{key}: {self}");
        }
        assert_eq!(error["code"], code, "expected code {code}, seen {self}");
        let version = error["cniVersion"].as_str().unwrap_or_default();
        assert!(VERSIONS.contains(&version), "expected a version that is spoken, seen {self}");
        let text = error["msg"].as_str().unwrap_or_default();
        assert!(!text.is_empty() && !text.ends_with('.') && !text.contains('\n'), "no message: {self}");
        self
    }

    #[track_caller]
    pub(crate) fn says(&self, word: &str) -> &Self {
        assert!(self.stdout.contains(word), "expected `{word}` on standard output, seen {self}");
        self
    }

    /// The call's line in the log.
    #[track_caller]
    pub(crate) fn log(&self) -> Value {
        let line = self.stderr.lines().next_back().unwrap_or_else(|| panic!("no line: {self}"));
        serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {self}"))
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, stdout, stderr, took } = self;
        write!(f, "status {code:?} after {took:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

/// Keys of a configuration in which everything is captured.
pub(crate) const ALL: &str = r#","selection":"all""#;

/// A configuration without a log file, and with more keys: `,"key":value`.
pub(crate) fn conf(version: &str, more: &str) -> String {
    format!(r#"{{"cniVersion":"{version}","name":"net","type":"mesh-init","logFile":""{more}}}"#)
}

/// The same as CHECK needs it.
pub(crate) fn conf_after_add(version: &str, more: &str) -> String {
    conf(version, &format!(r#"{more},"prevResult":{}"#, previous(version)))
}

/// A result of `version` with every key that it has.
pub(crate) fn previous(version: &str) -> String {
    let old = version.starts_with('0');
    let (family, family6) = if old { (r#""version":"4","#, r#""version":"6","#) } else { ("", "") };
    let (interface, route) = match version {
        "1.1.0" => (
            r#","mtu":1500,"socketPath":"/s","pciID":"0000:00:1f.6""#,
            r#","mtu":1400,"advmss":1360,"priority":100,"table":254,"scope":0"#,
        ),
        _ => ("", ""),
    };
    format!(
        r#"{{"cniVersion":"{version}","interfaces":[{{"name":"eth0","mac":"02:00:00:00:00:01","sandbox":"/run/netns/pod"{interface}}}],"ips":[{{{family}"address":"10.0.0.1/24","gateway":"10.0.0.2","interface":0}},{{{family6}"address":"fd00::1/64","interface":0}}],"routes":[{{"dst":"0.0.0.0/0","gw":"10.0.0.2"{route}}}],"dns":{{"nameservers":["10.0.0.53"],"domain":"a","search":["b"],"options":["c"]}}}}"#
    )
}
