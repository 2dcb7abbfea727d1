//! What goes wrong around a call: no privileges, a namespace that vanishes, a full disk, somebody who hangs.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;

use super::runtime::{ALL, Answer, Call, conf_after_add};
use crate::harness::Case;
use crate::support::command::Run;
use crate::support::creds::Who;
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, assert_same, dump};
use crate::support::sbin::Sbin;

pub(crate) fn cases() -> Vec<Case> {
    let list: [(&str, fn()); 18] = [
        ("unprivileged", unprivileged),
        ("netns_vanishes", netns_vanishes),
        ("log_in_its_default_place", log_in_its_default_place),
        ("log_on_a_full_disk", log_on_a_full_disk),
        ("log_that_cannot_be", log_that_cannot_be),
        ("log_of_many", log_of_many),
        ("lock_is_held", lock_is_held),
        ("tool_hangs", tool_hangs),
        ("tool_fails", tool_fails),
        ("file_system_hangs", file_system_hangs),
        ("stdin_stays_open", stdin_stays_open),
        ("agent_says", agent_says),
        ("agent_is_not_asked", agent_is_not_asked),
        ("agent_hangs", agent_hangs),
        ("agent_is_busy", agent_is_busy),
        ("agent_is_gone", agent_is_gone),
        ("agent_talks_nonsense", agent_talks_nonsense),
        ("closed_standard_error", closed_standard_error),
    ];
    let case = |(name, body): (&str, fn())| {
        Case::new(&format!("cni::trouble::{name}"), body).within(Duration::from_secs(60))
    };
    list.map(case).into()
}

fn add(pod: &Netns) -> Call {
    Call::about("ADD", pod).conf(conf_after_add("1.1.0", ALL))
}

/// Answered within five seconds and what a busy machine adds.
#[track_caller]
fn in_time(answer: &Answer) {
    assert!(answer.took < Duration::from_secs(7), "{answer}");
}

fn unprivileged() {
    let pod = Netns::new("pod");
    add(&pod).run().ok();
    let before = dump(&pod);
    for verb in ["ADD", "CHECK"] {
        let call = Call::about(verb, &pod).conf(conf_after_add("1.1.0", ALL)).user(Who::user(1000));
        call.run().fails(106).says("CAP_NET_ADMIN").says("CAP_SYS_ADMIN");
    }
    let call = Call::about("DEL", &pod).conf(conf_after_add("1.1.0", ALL)).user(Who::user(1000));
    let answer = call.run();
    answer.silent();
    assert!(answer.log()["error"].as_str().is_some_and(|said| said.contains("CAP_")), "{answer}");
    Call::bare("STATUS").user(Who::user(1000)).run().fails(50).says("CAP_");
    Call::bare("GC").user(Who::user(1000)).run().silent();
    Call::bare("VERSION").user(Who::user(1000)).run().says("supportedVersions");
    assert_same("nothing was done", &before, &dump(&pod));
}

/// At any instant of an ADD and of a DEL.
fn netns_vanishes() {
    let mut seen = [0, 0];
    for round in 0..60_u64 {
        let verb = ["ADD", "DEL"][usize::from(round % 4 == 3)];
        let pod = Netns::new("vanishing");
        let path = pod.path();
        let mut running = Call::at(verb, &path).conf("").start();
        let vanish = thread::spawn(move || {
            thread::sleep(Duration::from_micros(round * 60));
            umount2(&path, MntFlags::MNT_DETACH).expect("a bind mount");
            fs::remove_file(&path).expect("its name");
            drop(pod);
        });
        running.write(conf_after_add("1.1.0", ALL).as_bytes());
        let answer = running.finish();
        vanish.join().expect("the other thread");
        in_time(&answer);
        match (verb, answer.stdout.contains("\"code\"")) {
            ("DEL", _) => drop(answer.silent().took),
            (_, true) => {
                answer.fails(8);
                seen[0] += 1;
            }
            (_, false) => {
                answer.ok();
                seen[1] += 1;
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 0), "refused and done: {seen:?}");
}

fn tmpfs(at: &str, options: &str) {
    fs::create_dir_all(at).expect("a folder");
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(options)).expect("a tmpfs");
}

fn without_log_file(more: &str) -> String {
    conf_after_add("1.1.0", more).replace(r#","logFile":"""#, "")
}

fn lines(path: &str) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect()
}

fn log_in_its_default_place() {
    tmpfs("/var/log", "size=1m");
    let pod = Netns::new("pod");
    for verb in ["ADD", "CHECK", "STATUS", "VERSION", "GC", "DEL"] {
        let answer = Call::about(verb, &pod).conf(without_log_file(ALL)).run();
        answer.ok();
        // The same on both.
        let last = lines("/var/log/mesh-init/cni.log").pop().map(|line| line.to_string());
        if !answer.stderr.is_empty() {
            assert_eq!(last.as_deref(), Some(answer.log().to_string().as_str()), "{answer}");
        }
    }
    let verbs: Vec<Value> =
        lines("/var/log/mesh-init/cni.log").iter().map(|line| line["verb"].clone()).collect();
    assert_eq!(verbs, ["ADD", "CHECK", "GC", "DEL"]);
    Call::about("ADD", &pod).conf(without_log_file(r#","selection":"annotation""#)).run().fails(11);
    assert_eq!(lines("/var/log/mesh-init/cni.log").last().map(|line| line["code"].clone()), Some(11.into()));
}

fn log_on_a_full_disk() {
    tmpfs("/run/small", "size=16k");
    let fill = vec![0; 64 << 10];
    fs::File::create("/run/small/fill").expect("a file").write_all(&fill).expect_err("it is small");
    let pod = Netns::new("pod");
    let text = conf_after_add("1.1.0", &format!(r#"{ALL},"logFile":"/run/small/log/cni.log""#)).replacen(
        r#","logFile":"""#,
        "",
        1,
    );
    for verb in ["ADD", "CHECK", "DEL"] {
        let answer = Call::about(verb, &pod).conf(text.clone()).run();
        answer.ok();
        assert_eq!(answer.log()["verb"], verb, "standard error has it all the same");
    }
}

fn log_that_cannot_be() {
    tmpfs("/run/read-only", "size=16k");
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(None::<&str>, "/run/read-only", None::<&str>, flags, None::<&str>).expect("read-only");
    nix::unistd::mkfifo("/run/fifo", nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    let pod = Netns::new("pod");
    for path in ["/run/read-only/cni.log", "/run/fifo", "/run", "/proc/nothing/cni.log", "/dev/full"] {
        let text = conf_after_add("1.1.0", &format!(r#"{ALL},"logFile":"{path}""#)).replacen(
            r#","logFile":"""#,
            "",
            1,
        );
        let answer = Call::about("ADD", &pod).conf(text).run();
        answer.ok();
        assert!(answer.took < Duration::from_secs(4), "{path}: {answer}");
    }
}

/// Lines of calls at the same time do not mix.
fn log_of_many() {
    const CALLS: usize = 40;
    let text = conf_after_add("1.1.0", &format!(r#"{ALL},"logFile":"/run/log/cni.log""#)).replacen(
        r#","logFile":"""#,
        "",
        1,
    );
    let running: Vec<_> = (0..CALLS)
        .map(|number| {
            let text = text.clone();
            thread::spawn(move || {
                let call = Call::at("DEL", Path::new("/run/netns/none"))
                    .env("CNI_CONTAINERID", format!("c{number}"));
                call.conf(text).run().silent();
            })
        })
        .collect();
    for thread in running {
        thread.join().expect("a call");
    }
    let mut seen: Vec<String> =
        lines("/run/log/cni.log").iter().map(|line| line["containerId"].to_string()).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), CALLS);
}

/// Another run works in the pod and does not end.
fn lock_is_held() {
    let pod = Netns::new("pod");
    let before = dump(&pod);
    let held = pod.run(|| {
        let name = SocketAddr::from_abstract_name(b"mesh-init/apply").expect("a name");
        UnixListener::bind_addr(&name).expect("nobody has it")
    });
    let answer = add(&pod).run();
    answer.fails(104).says("deadline of 5 s").says("lock").says("try again");
    assert!(!answer.stdout.contains("--"), "a runtime gives no flags: {answer}");
    in_time(&answer);
    assert_same("after the deadline", &before, &dump(&pod));
    let answer = Call::about("DEL", &pod).conf(conf_after_add("1.1.0", ALL)).run();
    answer.silent();
    in_time(&answer);
    drop(held);
    add(&pod).run().ok();
}

/// The last of the tools hangs: what the others have done is taken back.
fn tool_hangs() {
    for variant in Variant::BOTH {
        let pod = Netns::new("pod");
        let before = dump(&pod);
        let text = conf_after_add(
            "1.1.0",
            &format!(r#"{ALL},"backend":"iptables","iptablesVariant":"{}""#, variant.name()),
        );
        let sbin = Sbin::new().with(
            &variant.program(Family::V6, "restore"),
            "case $(cat /proc/self/fd/0) in *15001*) sleep 60;; esac; exit 1",
        );
        let answer = add(&pod).conf(text.clone()).run();
        drop(sbin);
        answer.fails(104).says("deadline of 5 s").says("IPv6");
        in_time(&answer);
        assert_same("after the deadline", &before, &dump(&pod));
        add(&pod).conf(text).run().ok();
    }
}

fn tool_fails() {
    for variant in Variant::BOTH {
        let pod = Netns::new("pod");
        let before = dump(&pod);
        let text = conf_after_add(
            "1.1.0",
            &format!(r#"{ALL},"backend":"iptables","iptablesVariant":"{}""#, variant.name()),
        );
        let sbin = Sbin::new().with(&variant.program(Family::V6, "restore"), "echo it is broken >&2; exit 3");
        let answer = add(&pod).conf(text).run();
        drop(sbin);
        answer.fails(102).says("it is broken");
        assert_same("after the failure", &before, &dump(&pod));
    }
}

/// A file system whose daemon never answers: what looks at it waits until its end. (It goes with the value.)
fn silent_file_system(at: &str) -> fs::File {
    fs::create_dir_all(at).expect("a folder");
    let device = fs::File::options().read(true).write(true).open("/dev/fuse").expect("FUSE");
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    mount(Some("silent"), at, Some("fuse"), MsFlags::empty(), Some(options.as_str())).expect("a mount");
    device
}

/// What hangs is told to whoever reads the log later, unless it is the log.
fn file_system_hangs() {
    let silent = silent_file_system("/run/silent");
    for (log, kept) in [("/run/log/cni.log", true), ("/run/silent/cni.log", false)] {
        let answers = ["ADD", "DEL"].map(|verb| {
            let text = without_log_file(&format!(r#"{ALL},"logFile":"{log}""#));
            thread::spawn(move || Call::at(verb, Path::new("/run/silent/netns")).conf(text).run())
        });
        let [add, del] = answers.map(|thread| thread.join().expect("a call"));
        add.fails(104).says("deadline of 5 s").says("hung at the step").says("open");
        del.silent();
        for answer in [&add, &del] {
            in_time(answer);
            assert!(answer.stderr.contains("hung at the step"), "{answer}");
        }
        if kept {
            let mut told: Vec<(Value, Value)> =
                lines(log).into_iter().map(|line| (line["verb"].clone(), line["error"].clone())).collect();
            told.sort_by_key(|(verb, _)| verb.to_string());
            let said = |verb: &str, error: &Value| {
                let error = error.as_str().unwrap_or_default();
                error.starts_with(&format!("{verb} was not done within its deadline"))
            };
            let verbs: Vec<&Value> = told.iter().map(|(verb, _)| verb).collect();
            assert_eq!(verbs, ["ADD", "DEL"], "a line for each");
            assert!(said("ADD", &told[0].1) && said("DEL", &told[1].1), "{told:?}");
        }
    }
    drop(silent);
}

/// A runtime that never says that it has said everything.
fn stdin_stays_open() {
    let pod = Netns::new("pod");
    let answers: Vec<_> = ["ADD", "DEL", "STATUS"]
        .map(|verb| {
            let call = Call::about(verb, &pod);
            thread::spawn(move || call.start().finish())
        })
        .into_iter()
        .map(|thread| thread.join().expect("a call"))
        .collect();
    for answer in answers {
        answer.fails(104).says("deadline of 5 s").says("read");
        in_time(&answer);
    }
}

const SOCKET: &str = "/run/agent.sock";

fn asking(pod: &Netns, more: &str) -> Call {
    let text =
        conf_after_add("1.1.0", &format!(r#","selection":"annotation","agentSocket":"{SOCKET}"{more}"#));
    Call::about("ADD", pod).conf(text)
}

/// An agent that gives these answers, one after the other; the questions that it was asked.
fn agent(answers: Vec<String>) -> thread::JoinHandle<Vec<Value>> {
    let listener = UnixListener::bind(SOCKET).expect("a socket");
    thread::spawn(move || {
        let answer = |answer: String| {
            let (mut stream, _) = listener.accept().expect("a question");
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).expect("a line");
            stream.write_all(answer.as_bytes()).expect("somebody listens");
            serde_json::from_str(&line).expect("JSON")
        };
        let questions = answers.into_iter().map(answer).collect();
        fs::remove_file(SOCKET).expect("its name");
        questions
    })
}

fn facts(annotations: &str) -> String {
    format!("{{\"schema\":\"mesh-init/pod-facts/v1\",\"annotations\":{annotations}}}\n")
}

/// Facts decide as if the runtime had passed them on.
fn agent_says() {
    let agent = agent(vec![
        facts(r#"{"mesh-init.io/capture":"enabled"}"#),
        facts("{}"),
        facts(r#"{"mesh-init.io/capture":"perhaps"}"#),
        facts("null"),
    ]);
    let pod = Netns::new("pod");
    let answer = asking(&pod, "").run();
    answer.ok();
    assert_eq!(answer.log()["decision"], "capture", "{answer}");
    assert!(dump(&pod).contains("mesh_init"));
    let other = Netns::new("other");
    let answer = asking(&other, "").run();
    answer.ok();
    assert_eq!(answer.log()["decision"], "skip", "{answer}");
    asking(&other, "").run().fails(7);
    asking(&other, "").run().fails(11).says("does not know");
    let expected = serde_json::json!({
        "schema": "mesh-init/pod-query/v1", "containerId": "0123456789abcdef", "namespace": "demo", "name": "web", "uid": "u-1",
    });
    assert_eq!(agent.join().expect("the agent"), vec![expected; 4]);
}

/// Whoever needs nothing of it does not wait for it.
fn agent_is_not_asked() {
    let _hanging = UnixListener::bind(SOCKET).expect("a socket");
    let pod = Netns::new("pod");
    let delivered =
        r#","runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"mesh-init.io/capture":"enabled"}}"#;
    let own = asking(&pod, "").env("CNI_ARGS", "K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=agent");
    for call in [asking(&pod, delivered), own] {
        let answer = call.run();
        answer.ok();
        assert!(answer.log()["stepsMs"].get("agent").is_none(), "{answer}");
    }
}

/// It takes the question and says nothing, or only half of an answer.
fn agent_hangs() {
    for beginning in ["", "{\"schema\":"] {
        let listener = UnixListener::bind(SOCKET).expect("a socket");
        let hanging = thread::spawn(move || {
            let accepted: Vec<_> = listener.incoming().take(2).flatten().collect();
            for mut stream in &accepted {
                stream.write_all(beginning.as_bytes()).expect("somebody listens");
            }
            thread::sleep(Duration::from_secs(3));
        });
        let pod = Netns::new("pod");
        let calls = ["", r#","onMissingAnnotations":"skip""#].map(|more| {
            let call = asking(&pod, more);
            thread::spawn(move || call.run())
        });
        let [fails, skips] = calls.map(|thread| thread.join().expect("a call"));
        fails.fails(11).says("within 1 s").says("io.kubernetes.cri.pod-annotations");
        skips.ok();
        for answer in [fails, skips] {
            assert!(answer.took < Duration::from_secs(3), "{answer}");
        }
        hanging.join().expect("the agent");
        fs::remove_file(SOCKET).expect("its name");
    }
}

/// Nobody accepts, and the queue is full.
fn agent_is_busy() {
    let listener = UnixListener::bind(SOCKET).expect("a socket");
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(1).expect("small"))
        .expect("a short queue");
    let _queued: Vec<_> =
        (0..2).map(|_| std::os::unix::net::UnixStream::connect(SOCKET).expect("there is room")).collect();
    let answer = asking(&Netns::new("pod"), "").run();
    answer.fails(11).says("did not answer");
    assert!(answer.took < Duration::from_secs(3), "{answer}");
}

fn agent_is_gone() {
    let pod = Netns::new("pod");
    asking(&pod, "").run().fails(11).says(SOCKET);
    asking(&pod, r#","onMissingAnnotations":"skip""#).run().ok();
}

/// Verdicts are not its business.
fn agent_talks_nonsense() {
    let answers = [
        "\n".to_owned(),
        "garbage\n".to_owned(),
        facts("[]"),
        facts(r#"{"a":1}"#),
        facts("{}").replace("v1", "v2"),
        facts("{}").replace('}', "") + "},\"capture\":false}\n",
        format!("{}\n", "x".repeat(5 << 20)),
    ];
    for answer in answers {
        let listener = UnixListener::bind(SOCKET).expect("a socket");
        let talking = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a question");
            // It may be cut short.
            stream.write_all(answer.as_bytes()).is_ok()
        });
        let pod = Netns::new("pod");
        asking(&pod, "").run().fails(11).says(SOCKET);
        talking.join().expect("the agent");
        fs::remove_file(SOCKET).expect("its name");
        assert!(!dump(&pod).contains("mesh_init"));
    }
}

/// What is said there is lost, the answer is not.
fn closed_standard_error() {
    let pod = Netns::new("pod");
    let call = add(&pod).through(&["sh", "-c", "exec \"$0\" 2>&-"]);
    assert!(call.run().ok().contains("\"cniVersion\":\"1.1.0\""));
    let call = add(&pod).through(&["sh", "-c", "exec \"$0\" 2>/dev/full"]);
    assert!(call.run().ok().contains("\"cniVersion\":\"1.1.0\""));
    Run::new(&pod, "nft", &["list", "table", "ip", "mesh_init"]).ok();
}
