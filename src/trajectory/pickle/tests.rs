//! Tests of the reader of pickles: what Python wrote, and what is hostile.

use proptest::prelude::*;

use super::machine::{MAX_STACK, long};
use super::*;

/// A small pickle of Python's own, protocol 2: `make_trajectories.py` writes it.
const SMALL: &[u8] = include_bytes!("../../../fixtures/trajectory/small_arguments.pkl");

#[test]
fn a_pickle_of_python_is_read_value_by_value() {
    let pickle = Pickle::read(SMALL).unwrap();
    let root = pickle.root();
    assert_eq!(root.global(), Some(("__main__", "SmallArguments")));
    let field = |name: &str| root.attribute(name).unwrap();
    assert_eq!(field("learning_rate").as_f64(), Some(3e-4));
    assert_eq!(field("warmup_steps").as_i64(), Some(10));
    assert_eq!(field("max_steps").as_i64(), Some(-1));
    assert_eq!(field("negative").as_i64(), Some(-70_000));
    assert_eq!(field("small").as_i64(), Some(-(1 << 40)));
    assert_eq!((field("large").kind(), field("large").as_i64()), ("int", None));
    assert_eq!((field("bf16").as_bool(), field("fp16").as_bool()), (Some(true), Some(false)));
    assert!(field("optim_args").is_none());
    assert_eq!(field("text").as_str(), Some("ε"));
    assert_eq!(field("lr_scheduler_type").as_name(), Some("cosine"));
    assert_eq!(field("lr_scheduler_type").global(), Some(("transformers.trainer_utils", "SchedulerType")));
    assert_eq!(field("lr_scheduler_kwargs").get("num_cycles").and_then(Value::as_usize), Some(2));
    assert!(field("empty").elements().unwrap().is_empty());
    // One list under two names, filled after it was first stored.
    assert_eq!(field("shared").id, field("again").id);
    let shared = field("shared").elements().unwrap();
    assert_eq!(shared.get(2).unwrap().elements().unwrap().get(1).unwrap().as_str(), Some("four"));
}

#[test]
fn integers_of_every_length() {
    for (bytes, value) in [
        (&[][..], Some(0)),
        (&[0x7f][..], Some(127)),
        (&[0xff][..], Some(-1)),
        (&[0x00, 0x80][..], Some(-32768)),
        (&[0, 0, 0, 0, 0, 0, 0, 0x80][..], Some(i64::MIN)),
        (&[0, 0, 0, 0, 0, 0, 0, 0x80, 0][..], None),
        (&[1, 0, 0, 0, 0, 0, 0, 0, 0][..], Some(1)),
        (&[0, 0, 0, 0, 0, 0, 0, 0, 1][..], None),
        (&[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff][..], Some(-2)),
    ] {
        assert_eq!(long(bytes), value, "{bytes:?}");
    }
}

/// Every level holds the level before ten times: 10^60 elements if copied, 60 lists here.
#[test]
fn sharing_is_not_copying() {
    let mut bytes = b"\x80\x02]q\x00".to_vec();
    for level in 1..=60u8 {
        bytes.extend(b"](");
        bytes.extend([b'h', level - 1].repeat(10));
        bytes.extend([b'e', b'q', level]);
    }
    bytes.push(b'.');
    let pickle = Pickle::read(&bytes).unwrap();
    assert_eq!(pickle.nodes.len(), 61);
    assert_eq!(pickle.root().elements().unwrap().len(), 10);
    assert_eq!(format!("{:?}", pickle.root()), "list of 10");
}

#[test]
fn a_list_may_contain_itself() {
    let pickle = Pickle::read(b"\x80\x02]q\x00h\x00a.").unwrap();
    assert_eq!(pickle.root().elements().unwrap().get(0).unwrap().id, pickle.root().id);
}

/// What a hostile pickle does: its call is a node, and nothing more.
#[test]
fn calls_are_not_made() {
    let pickle = Pickle::read(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.").unwrap();
    assert_eq!(pickle.root().global(), Some(("os", "system")));
    assert_eq!(pickle.root().arguments().unwrap().get(0).unwrap().as_str(), Some("id"));
}

#[test]
fn broken_programs_are_errors() {
    let error = |bytes: &[u8]| Pickle::read(bytes).unwrap_err().to_string();
    assert_eq!(error(b""), "the pickle ends within the opcode at byte 0");
    assert_eq!(error(b"\x80\x04."), "the pickle has protocol 4, expected 2");
    assert_eq!(error(b"\x80\x02."), "the pickle is damaged: an empty stack at byte 2");
    assert_eq!(error(b"\x80\x02(."), "the pickle is damaged: an empty stack at byte 3");
    assert_eq!(error(b"\x80\x02t."), "the pickle is damaged: a missing mark at byte 2");
    assert_eq!(error(b"\x80\x02h\x07."), "the pickle is damaged: a memo entry that was never stored at byte 2");
    assert_eq!(error(b"\x80\x02}N(Nu."), "the pickle is damaged: a key without a value at byte 6");
    assert_eq!(error(b"\x80\x02NNa."), "the pickle is damaged: elements for something that is not a list at byte 4");
    assert_eq!(error(b"\x80\x02N)R."), "the pickle is damaged: a call of something that is not a name at byte 4");
    assert_eq!(error(b"\x80\x02i"), "the pickle has the opcode 0x69 at byte 2, which is not one that torch writes");
    assert_eq!(error(b"\x80\x02X\xff\xff\xff\xff"), "the pickle has more than 1048576 bytes in a string");
    assert_eq!(
        error(&[b"\x80\x02".as_slice(), &b"(".repeat(2000)].concat()),
        "the pickle has more than 1024 open containers"
    );
    assert_eq!(error(b"\x80\x02X\x01\x00\x00\x00\xff."), "the pickle is damaged: a string that is not UTF-8 at byte 2");
    assert_eq!(
        error(&[b"\x80\x02Nq\x00".as_slice(), &b"h\x00".repeat(MAX_STACK)].concat()),
        "the pickle has more than 1048576 values on the stack"
    );
}

/// Memory is bounded by the input: every opcode makes at most one value, of a fixed size.
#[test]
fn values_are_small() {
    assert!(std::mem::size_of::<Node>() <= 32);
}

proptest! {
    #[test]
    fn random_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(pickle) = Pickle::read(&bytes) {
            prop_assert!(pickle.nodes.len() <= bytes.len());
        }
    }

    /// Random programs over the known opcodes reach deeper than random bytes.
    #[test]
    fn random_programs_are_read_or_refused(
        body in prop::collection::vec(prop::sample::select(b"(.}])tNqhaesubRQK\x85\x86\x87\x81\x8f\x00\x01\x02".to_vec()), 0..300)
    ) {
        let bytes = [b"\x80\x02cm\nn\n".as_slice(), &body].concat();
        if let Ok(pickle) = Pickle::read(&bytes) {
            let root = pickle.root();
            let _ = (root.get("a"), root.attribute("b"), root.as_name(), root.entries().count(), format!("{root:?}"));
            prop_assert!(pickle.nodes.len() <= bytes.len());
        }
    }

    #[test]
    fn truncations_are_errors(n in 0..SMALL.len()) {
        prop_assert!(Pickle::read(&SMALL[..n]).is_err());
    }

    #[test]
    fn bit_flips_are_read_or_refused(flips in prop::collection::vec((0..SMALL.len(), 0..8u32), 1..6)) {
        let mut bytes = SMALL.to_vec();
        for (at, bit) in flips {
            bytes[at] ^= 1 << bit;
        }
        if let Ok(pickle) = Pickle::read(&bytes) {
            prop_assert!(pickle.nodes.len() <= bytes.len());
        }
    }
}
