//! What a container runtime says around the configuration, and what the agent answers.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use mesh_init::cni::arguments::Arguments;
use mesh_init::cni::envelope::Envelope;
use mesh_init::cni::failure::Failure;
use mesh_init::cni::protocol::{Call, Verb, is_name};
use mesh_init::cni::query;
use mesh_init::cni::version::Version;

use super::TOLD;

/// An environment, `NAME=value` separated by NUL.
pub fn environment(data: &[u8]) {
    let pairs = data.split(|byte| *byte == 0).filter_map(|word| {
        let (name, value) = word.split_at(word.iter().position(|byte| *byte == b'=')?);
        Some((OsString::from_vec(name.to_vec()), OsString::from_vec(value.get(1..)?.to_vec())))
    });
    let pairs: Vec<_> = pairs.collect();
    let asked = pairs.iter().find(|(name, _)| name == "CNI_COMMAND").filter(|(_, value)| !value.is_empty());
    match Call::read(&pairs) {
        Ok(None) => assert!(asked.is_none(), "asked and not heard"),
        Ok(Some(call)) => {
            assert!(asked.is_some_and(|(_, value)| value == call.verb.word()), "another verb");
            let about_one = matches!(call.verb, Verb::Add | Verb::Del | Verb::Check);
            assert_eq!(is_name(&call.container), about_one, "{:?}", call.container);
            let plain = |c: char| !(c == '/' || c == ':' || c.is_whitespace() || c.is_control());
            assert!(call.interface.len() <= 15 && call.interface.chars().all(plain), "{:?}", call.interface);
            assert_eq!(call.interface.is_empty(), !about_one);
            assert!(call.netns.is_some() || !matches!(call.verb, Verb::Add | Verb::Check));
            let question = query::query(&call);
            assert_eq!(question.matches('\n').count(), 1, "a question is one line: {question:?}");
        }
        Err(failure) => {
            assert_eq!(failure.code, 4, "{failure:?}");
            told(&failure);
        }
    }
}

/// `CNI_ARGS`, whatever the bytes; and the same as a configuration's outside and as an agent's answer.
pub fn arguments(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let read = Arguments::parse(&text);
    for (key, value) in
        [("K8S_POD_NAMESPACE", &read.namespace), ("K8S_POD_NAME", &read.name), ("K8S_POD_UID", &read.uid)]
    {
        let Some(value) = value else { continue };
        assert!(!value.is_empty() && !value.contains(';'), "{value:?}");
        let pair = format!("{key}={value}");
        assert!(text.split(';').any(|part| part == pair), "{pair:?} was not given");
    }
    // The order of what is different is no matter.
    let mut parts: Vec<&str> = text.split(';').collect();
    let mut keys: Vec<&str> = parts.iter().filter_map(|part| Some(part.split_once('=')?.0)).collect();
    keys.sort_unstable();
    if !keys.windows(2).any(|pair| matches!(pair, [one, other] if one == other)) {
        parts.reverse();
        assert_eq!(Arguments::parse(&parts.join(";")), read, "{text:?}");
    }
    for verb in Verb::ALL {
        if let Err(failure) = Envelope::read(data).and_then(|envelope| envelope.judge(verb)) {
            assert!([1, 6, 7].contains(&failure.code), "{failure:?}");
            told(&failure);
        }
    }
    if let Err(why) = query::facts(&text) {
        assert!(!why.is_empty() && why.len() <= TOLD, "{} bytes", why.len());
    }
}

/// An error is one line of JSON, in bounds.
fn told(failure: &Failure) {
    assert!(!failure.problem.is_empty(), "refused without a reason");
    for version in Version::ALL {
        let line = failure.json(version);
        assert!(line.len() <= TOLD, "{} bytes are said", line.len());
        assert_eq!(line.matches('\n').count(), 1, "one line: {line:?}");
    }
}
