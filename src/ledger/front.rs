//! Front coding: of each item only what differs from the beginning of the one before. Keys that a walk has taken in their
//! order take a few bytes each.

/// Appends items, each of which is written into an empty buffer.
pub(super) fn encode<T>(
    out: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    write: impl Fn(&mut Vec<u8>, T),
) {
    let (mut before, mut item) = (Vec::new(), Vec::new());
    for one in items {
        item.clear();
        write(&mut item, one);
        let differs = item.iter().zip(&before).position(|(one, other)| one != other);
        let shared = differs.unwrap_or(item.len().min(before.len()));
        put(out, shared);
        put(out, item.len() - shared);
        out.extend_from_slice(&item[shared..]);
        std::mem::swap(&mut before, &mut item);
    }
}

/// Reads so many items, or all there are, from the front of bytes and moves these on; `None` where they are none.
pub(super) fn decode(rest: &mut &[u8], count: Option<usize>) -> Option<Vec<Vec<u8>>> {
    let mut items: Vec<Vec<u8>> = Vec::new();
    while count.map_or(!rest.is_empty(), |count| items.len() < count) {
        let (shared, more) = (number(rest)?, number(rest)?);
        let before = items.last().map_or(&[][..], Vec::as_slice);
        let mut item = before.get(..shared)?.to_vec();
        let (head, tail) = rest.split_at_checked(more)?;
        item.extend(head);
        *rest = tail;
        items.push(item);
    }
    Some(items)
}

/// Appends a number, seven bits in each byte, the least first.
pub(super) fn put(out: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

/// Reads what [`put`] wrote.
pub(super) fn number(rest: &mut &[u8]) -> Option<usize> {
    let mut number = 0_usize;
    for shift in (0..usize::BITS).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        number |= usize::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn items_read_back(
            items in prop::collection::vec(prop::collection::vec(0..3_u8, 0..200), 0..20),
            more in any::<Vec<u8>>(),
        ) {
            let mut bytes = Vec::new();
            encode(&mut bytes, &items, |out, item| out.extend_from_slice(item));
            let mut rest = bytes.as_slice();
            prop_assert_eq!(decode(&mut rest, None), Some(items.clone()));
            bytes.extend(&more);
            let mut rest = bytes.as_slice();
            prop_assert_eq!(decode(&mut rest, Some(items.len())), Some(items));
            prop_assert_eq!(rest, more);
        }

        #[test]
        fn damage_is_no_panic(bytes in any::<Vec<u8>>(), count in prop::option::of(0..9_usize)) {
            decode(&mut bytes.as_slice(), count);
        }

        #[test]
        fn numbers_read_back(wanted in any::<usize>()) {
            let mut bytes = Vec::new();
            put(&mut bytes, wanted);
            prop_assert_eq!(number(&mut bytes.as_slice()), Some(wanted));
        }
    }

    #[test]
    fn keys_in_their_order_take_a_few_bytes_each() {
        use crate::types::{Key, KeyValue};
        let keys = (1_000_000..1_001_000).map(|id| Key(vec![KeyValue::Int(id)]));
        let mut bytes = Vec::new();
        encode(&mut bytes, keys, |out, key| key.encode_to(out));
        assert!(bytes.len() < 3_100, "{}", bytes.len());
    }
}
