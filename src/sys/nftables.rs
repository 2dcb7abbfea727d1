//! Talking to nf_tables: commits of whole batches, and dumps.
//!
//! netlink(7); linux/netlink.h, linux/netfilter/nfnetlink.h and nf_tables.h. What a batch says and what a dump means
//! is none of this file's business. Everything is about the network namespace of the thread that opens the socket.

#![expect(unsafe_code, reason = "two options of netlink sockets have no safe wrapper")]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::sockopt::{ReceiveTimeout, SndBuf, SndBufForce};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockopt, recv, sendto,
    setsockopt, socket,
};
use nix::sys::time::TimeVal;

use crate::error::{Class, Error, Result};
use crate::netlink::{self, HEADER, attribute, u16_at, u32_at};

const NFNL_SUBSYS_NFTABLES: u16 = 10;
pub(super) const NFT_MSG_GETTABLE: u16 = 1;
pub(super) const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_GETRULE: u16 = 7;
const NFT_MSG_GETSET: u16 = 10;
const NFT_MSG_GETSETELEM: u16 = 13;
const NFT_MSG_NEWGEN: u16 = 15;
const NFT_MSG_GETGEN: u16 = 16;
/// `NFTA_TABLE_NAME`, `NFTA_RULE_TABLE`, `NFTA_SET_TABLE`, `NFTA_SET_ELEM_LIST_TABLE`; `NFTA_GEN_ID` as well.
const FIRST: u16 = 1;
/// `NFTA_SET_NAME`, `NFTA_SET_ELEM_LIST_SET`.
const SECOND: u16 = 2;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
/// `NLM_F_CAPPED` and `NLM_F_ACK_TLVS`: an answer without the question, and with words.
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
/// struct nlmsghdr with struct nfgenmsg.
const BODY: usize = 20;
/// The families whose tables see packets of IP (linux/netfilter.h): inet, ip, ip6.
const FAMILIES: [u8; 3] = [1, 2, 10];
/// How long the kernel may take for one answer.
const PATIENCE: i64 = 5;
/// How often a dump is begun again that was changed while it was read.
const ATTEMPTS: usize = 16;
/// What netlink_sendmsg() in net/netlink/af_netlink.c keeps for itself.
const OVERHEAD: usize = 32;

/// A conversation with nf_tables.
#[derive(Debug)]
pub struct Nftables {
    fd: OwnedFd,
    /// What one datagram is read into.
    buffer: RefCell<Vec<u8>>,
}

/// More than the kernel puts into a datagram of its own accord (netlink_recvmsg() in net/netlink/af_netlink.c).
const DATAGRAM: usize = 64 << 10;

/// What was read, all of one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The generation of all rules of the namespace: the number of the last commit.
    pub generation: u32,
    /// The kernel's messages as they came: tables, chains, sets, elements, rules.
    pub messages: Vec<u8>,
}

impl Nftables {
    /// Opens a socket in the calling thread's namespace.
    ///
    /// # Errors
    /// The kernel has no netlink for netfilter.
    pub fn open() -> Result<Nftables> {
        Nftables::socket().map_err(|errno| explain("opening a netlink socket for nf_tables", "", errno))
    }

    pub(super) fn socket() -> nix::Result<Nftables> {
        let protocol = SockProtocol::NetlinkNetFilter;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&fd, ReceiveTimeout, &TimeVal::new(PATIENCE, 0))?;
        // Answers without the question fit where many come at once (4.3); why something failed (4.12).
        // Older kernels do without.
        option(&fd, libc::NETLINK_CAP_ACK);
        option(&fd, libc::NETLINK_EXT_ACK);
        Ok(Nftables { fd, buffer: RefCell::new(vec![0; DATAGRAM]) })
    }

    /// Commits a batch: all of it, or nothing. `objects` says for each of its messages what that is about, and what
    /// of the kernel it needs; the messages' sequence numbers count from the batch's begin.
    ///
    /// # Errors
    /// The first message that the kernel refused, by name; that somebody else was faster; that it is too large.
    pub fn commit(&self, batch: &[u8], objects: &[(String, String)]) -> Result<()> {
        self.make_room(batch.len())?;
        let last = messages(batch).count();
        let begin = u32_at(batch, 8).unwrap_or(0);
        let awaited = begin.wrapping_add(u32::try_from(last.saturating_sub(2)).unwrap_or(0));
        let nobody = ("committing to nf_tables", "");
        let sent = loop {
            match sendto(self.fd.as_raw_fd(), batch, &NetlinkAddr::new(0, 0), MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                other => break other,
            }
        };
        match sent {
            Ok(_) => {}
            Err(Errno::EMSGSIZE | Errno::ENOBUFS) => return Err(too_large(batch.len(), None)),
            Err(errno) => return Err(explain(nobody.0, nobody.1, errno)),
        }
        let answers = self.answers(awaited).map_err(|errno| explain(nobody.0, nobody.1, errno))?;
        // They come in the order in which things went wrong, but what concerns the whole batch tells most.
        let failed = answers.iter().filter(|answer| answer.errno != Errno::from_raw(0));
        let Some(first) = failed.min_by_key(|answer| answer.sequence.wrapping_sub(begin)) else {
            return Ok(());
        };
        let position =
            usize::try_from(first.sequence.wrapping_sub(begin)).ok().and_then(|at| at.checked_sub(1));
        let (object, needs) = match position.and_then(|at| objects.get(at)) {
            Some((object, needs)) => (format!("{} (nf_tables)", object), needs.as_str()),
            None => (nobody.0.to_owned(), nobody.1),
        };
        Err(match &first.words {
            Some(words) if first.errno != Errno::EPERM => {
                let error = explain(&object, needs, first.errno);
                Error { problem: format!("{} ({words})", error.problem), ..error }
            }
            _ => explain(&object, needs, first.errno),
        })
    }

    /// Everything of the families ip, ip6 and inet.
    ///
    /// # Errors
    /// The kernel refuses the question, or the rules change faster than they can be read.
    pub fn everything(&self) -> Result<Snapshot> {
        self.steady(|into| {
            for family in FAMILIES {
                self.dump(NFT_MSG_GETTABLE, family, &[], into)?;
                self.dump(NFT_MSG_GETCHAIN, family, &[], into)?;
                self.dump_sets(family, &[], into)?;
                self.dump(NFT_MSG_GETRULE, family, &[], into)?;
            }
            Ok(())
        })
        .map_err(|errno| explain(READING, "", errno))
    }

    /// The tables called `name` of the families ip and ip6; nobody else's rules and elements are read.
    ///
    /// # Errors
    /// As of [`Nftables::everything`].
    pub fn tables(&self, name: &str) -> Result<Snapshot> {
        let of = named(FIRST, name);
        self.steady(|into| {
            for family in [2, 10] {
                let mut tables = Vec::new();
                self.dump(NFT_MSG_GETTABLE, family, &[], &mut tables)?;
                // One dump has all tables and all chains, whatever is asked for.
                let there = keep(&tables, name, into);
                if there == 0 {
                    continue;
                }
                let mut chains = Vec::new();
                self.dump(NFT_MSG_GETCHAIN, family, &[], &mut chains)?;
                keep(&chains, name, into);
                self.dump_sets(family, &of, into)?;
                self.dump(NFT_MSG_GETRULE, family, &of, into)?;
            }
            Ok(())
        })
        .map_err(|errno| explain(READING, "", errno))
    }

    /// The number of the last commit in this namespace.
    ///
    /// # Errors
    /// The kernel refuses the question.
    pub fn generation(&self) -> Result<u32> {
        self.read_generation().map_err(|errno| explain(READING, "", errno))
    }

    /// What `read` adds, if the generation was the same before and after.
    fn steady(&self, read: impl Fn(&mut Vec<u8>) -> nix::Result<()>) -> nix::Result<Snapshot> {
        let once = || -> nix::Result<Option<Snapshot>> {
            let generation = self.read_generation()?;
            let mut messages = Vec::new();
            match read(&mut messages) {
                Ok(()) => {}
                // The dump was interrupted, or a table went between one question and the next.
                Err(Errno::EINTR | Errno::ENOENT) => return Ok(None),
                Err(errno) => return Err(errno),
            }
            let same = self.read_generation()? == generation;
            Ok(same.then_some(Snapshot { generation, messages }))
        };
        for _ in 0..ATTEMPTS {
            if let Some(snapshot) = once()? {
                return Ok(snapshot);
            }
        }
        Err(Errno::EINTR)
    }

    fn read_generation(&self) -> nix::Result<u32> {
        self.ask(NFT_MSG_GETGEN, 0, NLM_F_ACK, &[])?;
        let mut answer = Vec::new();
        self.collect(&mut answer)?;
        let newest = messages(&answer).find(|message| kind(message) == Some(nft(NFT_MSG_NEWGEN)));
        let bytes = newest.and_then(|message| find(message, FIRST)).ok_or(Errno::EBADMSG)?;
        bytes.try_into().map(u32::from_be_bytes).map_err(|_| Errno::EBADMSG)
    }

    /// Sets, and the elements of each.
    fn dump_sets(&self, family: u8, of: &[u8], into: &mut Vec<u8>) -> nix::Result<()> {
        let mut sets = Vec::new();
        self.dump(NFT_MSG_GETSET, family, of, &mut sets)?;
        let named: BTreeSet<(&[u8], &[u8])> =
            messages(&sets).filter_map(|message| find(message, FIRST).zip(find(message, SECOND))).collect();
        let wanted: Vec<Vec<u8>> = named
            .into_iter()
            .map(|(table, set)| [attribute(FIRST, table), attribute(SECOND, set)].concat())
            .collect();
        into.extend(sets.iter());
        for names in wanted {
            self.dump(NFT_MSG_GETSETELEM, family, &names, into)?;
        }
        Ok(())
    }

    /// All answers to one question, begun again if they changed meanwhile.
    pub(super) fn list(&self, message: u16, family: u8) -> nix::Result<Vec<u8>> {
        for _ in 0..ATTEMPTS {
            let mut messages = Vec::new();
            match self.dump(message, family, &[], &mut messages) {
                Err(Errno::EINTR) => {}
                other => return other.map(|()| messages),
            }
        }
        Err(Errno::EINTR)
    }

    fn dump(&self, message: u16, family: u8, attributes: &[u8], into: &mut Vec<u8>) -> nix::Result<()> {
        self.ask(message, family, NLM_F_DUMP, attributes)?;
        self.collect(into)
    }

    fn ask(&self, message: u16, family: u8, flags: u16, attributes: &[u8]) -> nix::Result<()> {
        let mut request = Vec::with_capacity(BODY + attributes.len());
        request.extend(u32::try_from(BODY + attributes.len()).map_err(|_| Errno::EMSGSIZE)?.to_ne_bytes());
        request.extend(nft(message).to_ne_bytes());
        request.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        request.extend([0; 8]); // sequence, port: one question at a time
        request.extend([family, 0, 0, 0]);
        request.extend(attributes);
        sendto(self.fd.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty()).map(drop)
    }

    /// Reads up to the end of an answer, all of it even if it is of two generations.
    fn collect(&self, into: &mut Vec<u8>) -> nix::Result<()> {
        let mut interrupted = false;
        let mut buffer = self.buffer.borrow_mut();
        loop {
            let count = self.receive(&mut buffer, MsgFlags::empty())?;
            let datagram = buffer.get(..count).unwrap_or_default();
            for message in netlink::messages(datagram) {
                let message = message.map_err(|netlink::Cut| Errno::EBADMSG)?;
                interrupted |= u16_at(message, 6).is_some_and(|flags| flags & NLM_F_DUMP_INTR != 0);
                match kind(message) {
                    // netlink_dump_done(): what it ended with.
                    Some(NLMSG_DONE | NLMSG_ERROR) => {
                        let code = u32_at(message, HEADER).map_or(0, u32::cast_signed);
                        return match (code, interrupted) {
                            (0, false) => Ok(()),
                            (0, true) => Err(Errno::EINTR),
                            (code, _) => Err(Errno::from_raw(code.saturating_neg())),
                        };
                    }
                    Some(_) => append(into, message),
                    None => return Err(Errno::EBADMSG),
                }
            }
        }
    }

    fn receive(&self, buffer: &mut [u8], flags: MsgFlags) -> nix::Result<usize> {
        loop {
            match recv(self.fd.as_raw_fd(), buffer, flags) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if !flags.contains(MsgFlags::MSG_DONTWAIT) => {
                    return Err(Errno::ETIMEDOUT);
                }
                other => return other,
            }
        }
    }

    /// All answers to a batch: up to the acknowledgement of its last message or an error, and what came with it.
    fn answers(&self, awaited: u32) -> nix::Result<Vec<Answer>> {
        let mut answers: Vec<Answer> = Vec::new();
        let mut buffer = self.buffer.borrow_mut();
        let mut flags = MsgFlags::empty();
        loop {
            match self.receive(&mut buffer, flags) {
                Ok(count) => {
                    answers.extend(messages(buffer.get(..count).unwrap_or_default()).filter_map(answer))
                }
                Err(Errno::EAGAIN) => return Ok(answers),
                // More went wrong than there is room to say; what was said is enough.
                Err(Errno::ENOBUFS) if !answers.is_empty() => {}
                Err(errno) => return Err(errno),
            }
            let ended = |answer: &Answer| answer.sequence == awaited || answer.errno != Errno::from_raw(0);
            if answers.iter().any(ended) {
                // The kernel has answered before it let go of the batch: the rest is there.
                flags = MsgFlags::MSG_DONTWAIT;
            }
        }
    }

    /// Lets the socket send so much at once.
    fn make_room(&self, bytes: usize) -> Result<()> {
        let wanted = bytes + OVERHEAD;
        let room = || getsockopt(&self.fd, SndBuf).unwrap_or(0);
        if room() >= wanted {
            return Ok(());
        }
        // The kernel doubles what is asked for (sock_setsockopt() in net/core/sock.c).
        if setsockopt(&self.fd, SndBufForce, &wanted).is_err() {
            let unprivileged = setsockopt(&self.fd, SndBuf, &wanted);
            if unprivileged.is_err() || room() < wanted {
                return Err(too_large(bytes, Some(room())));
            }
        }
        Ok(())
    }
}

const READING: &str = "reading the rules of nf_tables";

/// What the kernel said of a message.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    sequence: u32,
    errno: Errno,
    words: Option<String>,
}

fn answer(message: &[u8]) -> Option<Answer> {
    if kind(message)? != NLMSG_ERROR {
        return None;
    }
    let code = u32_at(message, HEADER)?.cast_signed();
    let sequence = u32_at(message, 8)?;
    let flags = u16_at(message, 6)?;
    // After the code comes the question's header, the question itself unless it was left out, and the words.
    let question =
        if flags & NLM_F_CAPPED == 0 { usize::try_from(u32_at(message, HEADER + 4)?).ok()? } else { HEADER };
    let words =
        message.get(HEADER + 4 + question.next_multiple_of(4)..).filter(|_| flags & NLM_F_ACK_TLVS != 0);
    let words = words.and_then(|attributes| netlink::find(attributes, NLMSGERR_ATTR_MSG)).map(netlink::text);
    Some(Answer { sequence, errno: Errno::from_raw(code.saturating_neg()), words })
}

fn too_large(bytes: usize, room: Option<usize>) -> Error {
    let limit = room.map_or(String::new(), |room| format!(", of which this socket may send {room}"));
    let needed = (bytes + OVERHEAD).div_ceil(2);
    Error::host(format!("the rules are {bytes} bytes of netlink messages in one step{limit}")).remedy(
        format!("set the sysctl net.core.wmem_max of the host to at least {needed}, or give fewer networks"),
    )
}

/// `what` failed with `errno`; it needs `needs` beyond nf_tables.
#[expect(clippy::wildcard_enum_match_arm, reason = "there are more errors than can be explained")]
fn explain(what: &str, needs: &str, errno: Errno) -> Error {
    let because = |class, why: &str| Error::new(class, format!("{what}: {why}"));
    match errno {
        Errno::EPERM => Error::new(Class::Privilege, format!("{what} needs CAP_NET_ADMIN"))
            .remedy("run as root, or add the capability NET_ADMIN"),
        Errno::EPROTONOSUPPORT => because(Class::Host, "the kernel has no netlink for netfilter")
            .remedy("it needs CONFIG_NETFILTER_NETLINK and CONFIG_NF_TABLES"),
        // nfnetlink_rcv_msg() in net/netfilter/nfnetlink.c, for a subsystem that is not there.
        Errno::EINVAL | Errno::EOPNOTSUPP if what == READING => {
            because(Class::Host, "the kernel has no nf_tables")
                .remedy("it needs CONFIG_NF_TABLES, CONFIG_NF_TABLES_IPV4 and CONFIG_NF_TABLES_IPV6")
        }
        Errno::ENOENT | Errno::EOPNOTSUPP if !needs.is_empty() => {
            because(Class::Host, "the kernel lacks something that it needs")
                .remedy(format!("it needs {needs}"))
        }
        Errno::ERESTART | Errno::EAGAIN => {
            because(Class::TryAgain, "somebody else has changed the rules of nf_tables meanwhile")
                .remedy("try again")
        }
        Errno::EINTR => because(Class::TryAgain, "they changed with every look").remedy("try again"),
        Errno::ENOBUFS | Errno::EMSGSIZE => because(
            Class::Host,
            "the kernel has no room for so much at once",
        )
        .remedy(
            "raise the sysctls net.core.wmem_max and net.core.rmem_max of the host, or give fewer networks",
        ),
        Errno::ETIMEDOUT => {
            because(Class::Refused, &format!("no answer from the kernel within {PATIENCE} s"))
        }
        errno => Error::refused(format!("{what}: {errno}")),
    }
}

/// Switches an option of netlink sockets on, if the kernel has it.
fn option(fd: &OwnedFd, name: libc::c_int) {
    let on: libc::c_int = 1;
    let size = u32::try_from(size_of::<libc::c_int>()).unwrap_or(4);
    // SAFETY: the value is an int that outlives the call, and its size is given.
    unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_NETLINK, name, (&raw const on).cast(), size) };
}

// === the messages ===

const fn nft(message: u16) -> u16 {
    NFNL_SUBSYS_NFTABLES << 8 | message
}

/// The messages of what was sent or received, up to the first that is cut.
pub(super) fn messages(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    netlink::messages(bytes).map_while(std::result::Result::ok)
}

/// Adds a message with what pads it.
fn append(into: &mut Vec<u8>, message: &[u8]) {
    into.extend(message);
    into.resize(into.len().next_multiple_of(4), 0);
}

fn kind(message: &[u8]) -> Option<u16> {
    u16_at(message, 4)
}

/// Hands on the messages whose first attribute is `table`; how many.
fn keep(from: &[u8], table: &str, into: &mut Vec<u8>) -> usize {
    let text = |bytes: &[u8]| bytes.split(|byte| *byte == 0).next() == Some(table.as_bytes());
    let ours = messages(from).filter(|message| find(message, FIRST).is_some_and(text));
    ours.map(|message| append(into, message)).count()
}

fn named(kind: u16, text: &str) -> Vec<u8> {
    // Names are short: NFT_NAME_MAXLEN is 256.
    attribute(kind, &[text.as_bytes(), &[0]].concat())
}

fn find(message: &[u8], wanted: u16) -> Option<&[u8]> {
    netlink::find(message.get(BODY..)?, wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::tests::message;

    #[test]
    fn an_answer_names_its_message_and_says_why() {
        let code = (-2_i32).to_ne_bytes();
        let question = message(0xa06, 0, 7, &[0; 8]);
        let words = named(NLMSGERR_ATTR_MSG, "no such thing");
        let whole = [&code[..], &question, &words].concat();
        let capped = [&code[..], &question[..HEADER], &words].concat();
        let want = Answer { sequence: 7, errno: Errno::ENOENT, words: Some("no such thing".into()) };
        assert_eq!(answer(&message(NLMSG_ERROR, NLM_F_ACK_TLVS, 7, &whole)), Some(want));
        let said = answer(&message(NLMSG_ERROR, NLM_F_ACK_TLVS | NLM_F_CAPPED, 7, &capped)).unwrap();
        assert_eq!(said.words.as_deref(), Some("no such thing"));
        assert_eq!(answer(&message(NLMSG_ERROR, 0, 7, &whole)).unwrap().words, None);
        assert_eq!(answer(&message(NLMSG_DONE, 0, 7, &whole)), None);
    }

    #[test]
    fn errors_say_what_to_do() {
        for (errno, needs, class, word) in [
            (Errno::EPERM, "", Class::Privilege, "CAP_NET_ADMIN"),
            (Errno::ENOENT, "expression fib", Class::Host, "expression fib"),
            (Errno::ENOENT, "", Class::Refused, "rule 3"),
            (Errno::ERESTART, "", Class::TryAgain, "try again"),
            (Errno::EMSGSIZE, "", Class::Host, "wmem_max"),
        ] {
            let error = explain("rule 3 of chain output", needs, errno);
            assert_eq!(error.class, class);
            assert!(error.to_string().contains(word), "{error}");
        }
        let error = too_large(400_000, Some(212_992));
        assert_eq!(error.class, Class::Host);
        assert!(error.to_string().contains("at least 200016"), "{error}");
    }

    #[test]
    fn garbage_ends() {
        for length in 0..80 {
            for byte in [0, 1, 4, 16, 20, 255] {
                let bytes = vec![byte; length];
                assert!(messages(&bytes).count() <= length);
                find(&bytes, 1);
                answer(&bytes);
                keep(&bytes, "x", &mut Vec::new());
            }
        }
    }
}
