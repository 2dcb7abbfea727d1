//! Reads and writes of single words.

use mesh_init_abi::{Address, Endpoint};

/// Reads a field of what a pointer points to.
#[macro_export]
macro_rules! read {
    ($pointer:expr, $($field:tt)+) => {
        // SAFETY: the verifier takes the program only if the field can be read.
        unsafe { ::core::ptr::read_volatile(&raw const (*$pointer).$($field)+) }
    };
}

/// Writes a field of what a pointer points to.
#[macro_export]
macro_rules! write {
    ($pointer:expr, $($field:ident).+, $value:expr) => {
        // SAFETY: the verifier takes the program only if the field can be written.
        unsafe { ::core::ptr::write_volatile(&raw mut (*$pointer).$($field).+, $value) }
    };
}

/// Reads four words that begin at the field.
#[macro_export]
macro_rules! read_address {
    ($pointer:expr, $($field:tt)+) => {
        ::mesh_init_abi::Address([
            $crate::read!($pointer, $($field)+[0]),
            $crate::read!($pointer, $($field)+[1]),
            $crate::read!($pointer, $($field)+[2]),
            $crate::read!($pointer, $($field)+[3]),
        ])
    };
}

/// Writes four words that begin at the field.
#[macro_export]
macro_rules! write_address {
    ($pointer:expr, $field:ident, $address:expr) => {{
        let ::mesh_init_abi::Address([a, b, c, d]) = $address;
        // SAFETY: the verifier takes the program only if the field can be written.
        unsafe {
            ::core::ptr::write_volatile(&raw mut (*$pointer).$field[0], a);
            ::core::ptr::write_volatile(&raw mut (*$pointer).$field[1], b);
            ::core::ptr::write_volatile(&raw mut (*$pointer).$field[2], c);
            ::core::ptr::write_volatile(&raw mut (*$pointer).$field[3], d);
        }
    }};
}

/// A port of host byte order, from the word that the kernel keeps in network byte order.
#[inline(always)]
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the port is in the low half, and what is above it is zero"
)]
pub const fn port_of(word: u32) -> u32 {
    u16::from_be(word as u16) as u32
}

/// The word for a port of host byte order.
#[inline(always)]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "a port")]
pub const fn word_of(port: u32) -> u32 {
    (port as u16).to_be() as u32
}

/// What a socket's storage or a map has at `pointer`.
#[inline(always)]
#[must_use]
pub fn endpoint(pointer: *const Endpoint) -> Endpoint {
    Endpoint { address: read_address!(pointer, address.0), port: read!(pointer, port) }
}

/// The address at `pointer`.
#[inline(always)]
#[must_use]
pub fn address(pointer: *const Address) -> Address {
    read_address!(pointer, 0)
}

/// Writes it.
#[inline(always)]
pub fn put_endpoint(pointer: *mut Endpoint, endpoint: Endpoint) {
    // SAFETY: the verifier takes the program only if the place can be written.
    let address = unsafe { &raw mut (*pointer).address };
    put_address(address, endpoint.address);
    write!(pointer, port, endpoint.port);
}

/// Writes an address.
#[inline(always)]
pub fn put_address(pointer: *mut Address, Address([a, b, c, d]): Address) {
    let words: *mut u32 = pointer.cast();
    // SAFETY: an address is four words, and the verifier takes the program only if they can be written.
    unsafe {
        words.write_volatile(a);
        words.add(1).write_volatile(b);
        words.add(2).write_volatile(c);
        words.add(3).write_volatile(d);
    }
}

/// Whether both are the same.
#[inline(always)]
#[must_use]
pub fn same(one: Endpoint, other: Endpoint) -> bool {
    one.address.is(other.address) && one.port == other.port
}

/// The address of a socket of the family, of the two that the kernel has for it. Both are read first: a compiler that reads
/// one or the other does it by an offset, which the verifier does not take.
#[inline(always)]
#[must_use]
pub const fn of_family(family: u32, v4: u32, v6: Address) -> Address {
    const AF_INET: u32 = 2;
    match family == AF_INET {
        true => Address::v4(v4),
        false => v6,
    }
}
