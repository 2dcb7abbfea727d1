//! Sets of nf_tables: when two are the same, and how they are told to the kernel.

use mesh_init::backend::nftables::abi::{NFT_JUMP, NFTA_SET_DATA_LEN, NFTA_SET_DATA_TYPE};
use mesh_init::backend::nftables::interval::Interval;
use mesh_init::backend::nftables::set::{Code, Element, Key, Set};
use mesh_init::backend::nftables::wire::Writer;
use mesh_init::policy::Family;

fn uids(ids: &[u32]) -> Set {
    Set::of_ids(Family::V4, Key::Uid, ids.iter().copied())
}

/// A map of so many single ports to one chain.
fn map(ports: u16) -> Set {
    let code = Code { code: NFT_JUMP, chain: Some("abcd".to_owned()) };
    let entry = |port: u16| {
        let port = u128::from(port);
        (Interval { first: port, last: port }, code.clone(), vec![7; 8])
    };
    Set::of_verdicts(Family::V4, Key::Port, &(1..=ports).map(entry).collect::<Vec<_>>())
}

#[test]
fn the_order_of_elements_does_not_count() {
    let set = uids(&[1, 2]);
    assert!(set.same(&uids(&[2, 1])));
    assert!(!set.same(&uids(&[1, 3])) && set.same_shape(&uids(&[1, 3])));
    assert!(!set.same(&uids(&[1])) && !uids(&[1]).same(&set));
    // An end where the keys begin ends nothing, wherever it stands.
    let end = |key: Vec<u8>| Element { key, end: true, verdict: None, userdata: Vec::new() };
    let with =
        |element: Element| Set { elements: [set.elements.clone(), vec![element]].concat(), ..set.clone() };
    assert!(set.same(&with(end(vec![0; 4]))));
    assert!(!set.same(&with(end(vec![0, 0, 0, 1]))));
    assert!(!set.same(&with(Element { end: false, ..end(vec![0; 4]) })));
    // An end and a beginning of one key: the end first.
    let beginning = Element { end: false, ..end(vec![9; 4]) };
    let both = |elements: [Element; 2]| Set { elements: elements.to_vec(), ..set.clone() };
    assert!(both([end(vec![9; 4]), beginning.clone()]).same(&both([beginning, end(vec![9; 4])])));
}

#[test]
fn a_set_of_another_shape_is_another_one() {
    let set = uids(&[1, 2]);
    let of_v6 = Set { family: Family::V6, ..set.clone() };
    let gids = Set::of_ids(Family::V4, Key::Gid, [1, 2].into_iter());
    let flagged = Set { flags: set.flags | 4, ..set.clone() };
    let longer = Set { key_length: 8, ..set.clone() };
    for other in [of_v6, gids, flagged, longer] {
        assert!(!set.same_shape(&other) && !set.same(&other), "{other:?}");
    }
    let named = Set { name: "another".to_owned(), ..set.clone() };
    assert!(set.same_shape(&named) && set.same(&named));
}

/// The types of the attributes that create a set (linux/netlink.h, `struct nlattr`).
fn attributes(set: &Set) -> Vec<u16> {
    let mut writer = Writer::new();
    set.write(1, &mut writer);
    let bytes = writer.finish().expect("attributes");
    let (mut left, mut types) = (bytes.as_slice(), Vec::new());
    while let Some((&[a, b, c, d], _)) = left.split_first_chunk::<4>() {
        types.push(u16::from_ne_bytes([c, d]) & 0x3fff);
        left = &left[usize::from(u16::from_ne_bytes([a, b])).next_multiple_of(4)..];
    }
    types
}

#[test]
fn only_a_map_says_what_it_answers() {
    for (set, is_map) in [(uids(&[1, 2]), false), (map(2), true)] {
        let types = attributes(&set);
        for data in [NFTA_SET_DATA_TYPE, NFTA_SET_DATA_LEN] {
            assert_eq!(types.contains(&data), is_map, "{data}: {types:?}");
        }
    }
}

/// Elements go in as few messages as 60000 bytes for each allow, an element counting 64 bytes and what it holds.
#[test]
fn parts_are_as_large_as_they_may_be() {
    let parts = |set: &Set| set.chunks().map(<[Element]>::len).collect::<Vec<_>>();
    assert_eq!(parts(&uids(&(0..2000).collect::<Vec<_>>())), [882, 882, 236]);
    // 64 + 2 of the key + 8 of the remark + 4 of the chain's name.
    assert_eq!(parts(&map(2000)), [769, 769, 462]);
    assert!(parts(&uids(&[])).is_empty());
}
