//! Sets of facts, as the maps hold them: each bit one fact of a policy.

macro_rules! flags {
    ($(#[$about:meta])* $name:ident { $($(#[$meaning:meta])* $flag:ident = $bit:literal;)* }) => {
        $(#[$about])*
        #[repr(transparent)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
        pub struct $name(pub u32);

        impl $name {
            /// No fact at all: what a look-up that finds nothing says.
            pub const NONE: $name = $name(0);
            $($(#[$meaning])* pub const $flag: $name = $name(1 << $bit);)*

            /// Whether a fact of `other` holds.
            #[inline(always)]
            #[must_use]
            pub const fn has(self, other: $name) -> bool {
                self.0 & other.0 != 0
            }

            /// The facts of both.
            #[inline(always)]
            #[must_use]
            pub const fn and(self, other: $name) -> $name {
                $name(self.0 | other.0)
            }

            /// `self` if `holds`, else nothing.
            #[inline(always)]
            #[must_use]
            pub const fn only_if(self, holds: bool) -> $name {
                if holds { self } else { $name::NONE }
            }
        }
    };
}

flags! {
    /// What the policy says as a whole.
    PolicyFlags {
        /// IPv6 is captured, too.
        IPV6 = 0;
        /// Something outbound of IPv4 may be captured; else nothing outbound is looked at.
        OUTBOUND_V4 = 1;
        /// The same of IPv6.
        OUTBOUND_V6 = 2;
        /// Every destination is captured that is not excluded.
        TO_ALL = 3;
        /// A network that begins at a loopback address is captured: an application's calls to its own pod are, too.
        TO_LOOPBACK = 4;
        /// DNS is captured.
        DNS = 5;
        /// From every server, not only those that are named.
        DNS_ALL = 6;
        /// Only the named groups are captured; without it all but them are.
        GROUPS_ONLY = 7;
        /// Something inbound is captured.
        INBOUND = 8;
        /// Inbound all ports but the named ones are captured; without it only these are.
        INBOUND_ALL = 9;
    }
}

flags! {
    /// What the policy says of a destination address: the value of the longest prefix that it lies in.
    NetFlags {
        /// The address by which a program means its own host, as the policy has it.
        LOOPBACK = 0;
        /// Lies in an excluded network.
        EXCLUDED = 1;
        /// Lies in an included network.
        INCLUDED = 2;
        /// Is a DNS server whose queries are captured.
        DNS_SERVER = 3;
    }
}

flags! {
    /// What the policy says of a destination port: the value of the longest prefix that it lies in.
    PortFlags {
        /// Excluded outbound.
        OUT_EXCLUDED = 0;
        /// Included outbound.
        OUT_INCLUDED = 1;
        /// Named inbound: captured or left alone, as [`PolicyFlags::INBOUND_ALL`] says.
        IN_NAMED = 2;
        /// Never captured inbound by a scoped `*`: SSH and the proxy's own.
        IN_RESERVED = 3;
    }
}

flags! {
    /// What the policy says of a user or a group.
    OwnerFlags {
        /// The proxy runs as it.
        PROXY = 0;
        /// It is the first of those that the proxy runs as, which upstream treats apart from the others.
        FIRST = 1;
        /// Its traffic is captured on a VM host.
        OWNER = 2;
        /// It is one of the groups that a pod's policy names.
        GROUP = 3;
    }
}

flags! {
    /// What is remembered of a socket.
    SockFlags {
        /// Who made it: user and group hold.
        MADE = 0;
        /// It was sent elsewhere: target and original hold.
        SENT = 1;
        /// It was accepted, and was meant for the original.
        MEANT = 2;
        /// The proxy bound it to the port for what arrives.
        PROXYS = 3;
        /// It was accepted by a listener of the proxy's and was sent nowhere else: its own address is the one that was called.
        STEERED = 4;
        /// Its source address is one that was chosen for it: it holds for no other connection.
        BOUND = 5;
        /// It was sent elsewhere by a call that is not through all programs yet.
        FRESH = 6;
        /// It was made in the proxy's control group.
        OF_PROXY = 7;
    }
}
