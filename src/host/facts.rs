//! Answers to the questions that the input raises.

use std::path::Path;

use crate::policy::Facts;
use crate::policy::facts::{Questions, parse_ids, parse_resolvers};
use crate::sys::{fs, routing};

/// Reads what is asked for. A file that is missing or unreadable answers nothing; the fault then names it.
#[must_use]
pub fn answer(questions: Questions) -> Facts {
    // What the kernel does not tell is told as what it means for the rules.
    let addresses = match questions.addresses {
        // Our own address on lo says nothing of the machine.
        true => {
            let all = routing::addresses().unwrap_or_default().into_iter();
            all.filter(|address| *address != routing::ADDRESS).collect()
        }
        false => Vec::new(),
    };
    let text = |wanted: bool, path: &str| match wanted {
        true => fs::read(Path::new(path)).unwrap_or_default(),
        false => String::new(),
    };
    Facts {
        users: parse_ids(&text(questions.users, "/etc/passwd")),
        groups: parse_ids(&text(questions.groups, "/etc/group")),
        addresses,
        resolvers: parse_resolvers(&text(questions.resolvers, "/etc/resolv.conf")),
    }
}
