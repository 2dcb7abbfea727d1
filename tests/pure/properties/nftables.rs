//! Rules for nf_tables: what is written is read, and a plan ends where it says it will.

use mesh_init::backend::nftables::encode::lower;
use mesh_init::backend::nftables::{Options, create, decode, normal, plan};
use proptest::prelude::*;

use super::nftables_given::{rules, unseen};
use super::{cases, fuzz};

fn options() -> impl Strategy<Value = Options> {
    any::<bool>().prop_map(|maps| Options { maps })
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn what_is_written_is_read(given in rules(), options in options()) {
        let batch = create(&given, options).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let bytes = batch.bytes(Some(7)).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let read = decode(&bytes);
        prop_assert_eq!(&unseen(&read.rules), &normal(&given));
        prop_assert_eq!(normal(&normal(&given)), normal(&given));
        prop_assert_eq!(read.handles.len(), read.rules.chains.len());
        for (chain, handles) in read.rules.chains.iter().zip(&read.handles) {
            prop_assert_eq!(chain.rules.len(), handles.len());
            for rule in &chain.rules {
                prop_assert!(rule.seen.is_some(), "a rule that was read says how");
            }
        }
        // Read back, there is nothing to do, however it was spelled.
        for other in [Options { maps: false }, Options::default()] {
            prop_assert_eq!(plan(&given, &read, other), Ok(vec![]));
        }
    }

    /// Sets come before the rules that use them, and no step takes away what the next ones need.
    #[test]
    fn a_replacement_is_staged(old in rules(), new in rules(), options in options()) {
        let fail = |error: mesh_init::error::Error| TestCaseError::fail(error.to_string());
        let bytes = create(&old, options).and_then(|batch| batch.bytes(None)).map_err(fail)?;
        let batches = plan(&new, &decode(&bytes), options).map_err(fail)?;
        prop_assert!(batches.len() <= 3);
        let sets = |rules| lower(rules, options).map(|tables| tables.sets.len()).map_err(fail);
        for batch in &batches {
            let of = |word: &str| batch.objects().iter().any(|(object, _)| object.starts_with(word));
            prop_assert!(!(of("set ") && of("rule")), "{:?}", batch.objects());
        }
        prop_assert!(sets(&new)? > 0 || batches.iter().filter(|batch| !batch.is_empty()).count() <= 2);
    }

    #[test]
    fn garbage_is_read_to_its_end(bytes in proptest::collection::vec(any::<u8>(), 0..512), given in rules(), at in any::<prop::sample::Index>(), with in any::<u8>()) {
        drop(decode(&bytes));
        let mut written = create(&given, Options::default()).and_then(|batch| batch.bytes(None)).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let at = at.index(written.len());
        written[at] = with;
        fuzz::nftables(&written);
        let read = decode(&written);
        // Whatever it is, there is a way from it to what is wanted, or a word why not.
        if let Err(error) = plan(&given, &read, Options::default()) {
            prop_assert!(error.to_string().contains("another one"), "{error}");
        }
    }
}
