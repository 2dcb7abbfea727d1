//! By which names a container runtime knows a namespace: it may be gone when the runtime says that the container is.

use std::path::{Path, PathBuf};

use super::node::{Node, id, number};
use crate::error::Result;
use crate::sys::bpf::pins;

impl Node {
    fn attachment(&self, container: &str, interface: &str) -> PathBuf {
        // The BPF file system takes no name with a dot. Of `:` and `@` neither is part of a container's id, nor `:` of an
        // interface's name (CNI specification, section 2; dev_valid_name() in net/core/dev.c).
        self.root.join("attachments").join(format!("{container}@{interface}").replace('.', ":"))
    }

    /// Remembers that the namespace is that of the attachment.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn name(&self, netns: u64, container: &str, interface: &str) -> Result<()> {
        pins::point(&self.attachment(container, interface), &Path::new("../netns").join(id(netns)))
    }

    /// Forgets the attachment, and with the last one of its namespace takes away what that has, unless `stays` says that it
    /// is needed. Whether anything was taken away.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn detach(&self, container: &str, interface: &str, stays: bool) -> Result<bool> {
        self.release(&self.attachment(container, interface), stays)
    }

    /// Detaches every attachment that is none of `valid`; how many those were.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn keep_only(&self, valid: &[(&str, &str)]) -> Result<usize> {
        let valid: Vec<PathBuf> =
            valid.iter().map(|(container, interface)| self.attachment(container, interface)).collect();
        let mut released = 0;
        for attachment in pins::list(&self.root.join("attachments"))? {
            if !valid.contains(&attachment) {
                self.release(&attachment, false)?;
                released += 1;
            }
        }
        Ok(released)
    }

    fn release(&self, attachment: &Path, stays: bool) -> Result<bool> {
        let Some(target) = pins::pointed(attachment) else { return Ok(false) };
        pins::remove(attachment)?;
        let others = pins::list(&self.root.join("attachments"))?;
        if stays || others.iter().any(|other| pins::pointed(other).as_deref() == Some(&target)) {
            return Ok(false);
        }
        match number(&target) {
            Some(netns) if self.is_there(netns) => self.remove(netns).map(|()| true),
            Some(_) | None => Ok(false),
        }
    }
}
