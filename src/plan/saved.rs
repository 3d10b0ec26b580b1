//! Saved plans: a decision that can be looked at, handed on, and carried out as it is or not at all.
//!
//! Pure. A plan is text that people read, with its signature, and names the records of each rule by
//! [`Range`]s in the order of their key: up to which key, how many, and the sum of their keyed
//! commitments. Sums add up, so any row of neighbouring ranges can be taken in one batch and held
//! against the plan: one record more, less, or other, and the sum is another. Where few records are due
//! each is a range of its own. The keys themselves are sealed: a plan can be passed on.

use std::ops::AddAssign;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::breaker::Share;
use crate::types::{Key, Name};

/// The first line of the signed text: what it is, and in which form.
const TITLE: &str = "expunged plan 1\n";
/// Ranges of one rule, at most.
const MOST_RANGES: u64 = 10_000;

/// A plan that was saved, with its terms.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SavedPlan {
    /// Its id.
    pub id: Uuid,
    /// The version of expunged that made it.
    pub version: String,
    /// The moment of the decision.
    pub made_at: Timestamp,
    /// From then on it is too old.
    pub valid_until: Timestamp,
    /// By how much of itself the number of due records may have moved: a fraction.
    pub margin: f64,
    /// What it decides for each rule.
    pub rules: Vec<Part>,
}

/// What a saved plan decides for one rule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Part {
    /// The rule.
    pub rule: Name,
    /// Which version of it.
    pub rule_digest: String,
    /// Its store.
    pub store: Name,
    /// Its table.
    pub table: String,
    /// Which columns, keys, references and triggers the table had.
    pub schema_digest: String,
    /// `delete` or `anonymize`.
    pub action: String,
    /// Records whose starting point lies before it are due.
    pub cutoff: Timestamp,
    /// How many are due.
    pub due: u64,
    /// Of how many.
    pub total: u64,
    /// In how many ranges.
    pub ranges: u64,
    /// The sum of the commitments to all of them, in hexadecimal digits.
    pub keys_digest: String,
    /// The ranges, sealed.
    pub sealed: String,
}

/// Why a text is not a saved plan of this installation.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidPlan {
    /// Not signed by this installation.
    #[error("it is not a plan that this installation has signed, or it was changed")]
    Signature,
    /// Signed, and of another form.
    #[error("it is a plan in a form that this version does not know: make a new one")]
    Form,
    /// The ranges cannot be opened.
    #[error(
        "its ranges cannot be opened: the keys of this installation are others now; make a new plan"
    )]
    Sealed,
}

impl SavedPlan {
    /// The text that is signed.
    pub fn to_text(&self) -> String {
        // Plain data with string keys: serializing it cannot fail.
        let json = serde_json::to_string_pretty(self).unwrap_or_default();
        format!("{TITLE}{json}\n")
    }

    /// Reads the text that was signed.
    ///
    /// # Errors
    /// When it is not a plan in this version's form.
    pub fn from_text(text: &str) -> Result<SavedPlan, InvalidPlan> {
        let json = text.strip_prefix(TITLE).ok_or(InvalidPlan::Form)?;
        serde_json::from_str(json).map_err(|_| InvalidPlan::Form)
    }

    /// SHA-256 over the signed text: the audit log names the plan by it.
    pub fn digest(&self) -> String {
        hex::encode(Sha256::digest(self.to_text()))
    }

    /// Whether it decides for a rule.
    pub fn names(&self, rule: &Name) -> bool {
        self.rules.iter().any(|part| part.rule == *rule)
    }

    /// By how much of itself the number of due records may have moved.
    pub fn margin(&self) -> Option<Share> {
        Share::new(self.margin)
    }

    /// What the ranges of one of its rules are sealed for.
    pub fn context(&self, rule: &Name) -> Vec<u8> {
        [self.id.as_bytes().as_slice(), rule.as_str().as_bytes()].concat()
    }
}

/// The sum of keyed commitments, as numbers of 256 bits.
///
/// Without the key nobody can find other records with the same sum (Bellare and Micciancio, "A New
/// Paradigm for Collision-Free Hashing", 1997: AdHash, here over a keyed function).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct KeySum([u8; 32]);

impl AddAssign<[u8; 32]> for KeySum {
    fn add_assign(&mut self, commitment: [u8; 32]) {
        let mut carry = 0;
        for (mine, other) in self.0.iter_mut().zip(commitment).rev() {
            let [high, low] = (u16::from(*mine) + u16::from(other) + carry).to_be_bytes();
            (carry, *mine) = (u16::from(high), low);
        }
    }
}

impl AddAssign for KeySum {
    fn add_assign(&mut self, other: KeySum) {
        *self += other.0;
    }
}

impl KeySum {
    /// The sum in hexadecimal digits.
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }
}

/// Records of a plan that follow each other in the order of their key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Range {
    /// The last of them; the first comes after the last of the range before.
    pub upto: Key,
    /// How many.
    pub records: u64,
    /// The sum of the commitments to them.
    pub sum: KeySum,
}

/// Cuts records that come in the order of their key into ranges.
#[derive(Debug)]
pub struct Ranges {
    size: u64,
    cut: Vec<Range>,
    total: KeySum,
    records: u64,
}

impl Ranges {
    /// For about so many records.
    pub fn for_about(due: u64) -> Ranges {
        let size = due.div_ceil(MOST_RANGES).max(1);
        Ranges { size, cut: Vec::new(), total: KeySum::default(), records: 0 }
    }

    /// Takes the next record with its commitment.
    pub fn push(&mut self, key: Key, commitment: [u8; 32]) {
        self.total += commitment;
        self.records += 1;
        match self.cut.last_mut() {
            Some(range) if range.records < self.size => {
                range.upto = key;
                range.records += 1;
                range.sum += commitment;
            }
            _ => {
                let mut sum = KeySum::default();
                sum += commitment;
                self.cut.push(Range { upto: key, records: 1, sum });
            }
        }
    }

    /// How many records there are.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// The sum over all of them.
    pub fn sum(&self) -> KeySum {
        self.total
    }

    /// The ranges in order.
    pub fn as_slice(&self) -> &[Range] {
        &self.cut
    }

    /// All ranges, to be sealed.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for range in &self.cut {
            range.upto.encode_to(&mut bytes);
            bytes.extend(range.records.to_be_bytes());
            bytes.extend(range.sum.0);
        }
        bytes
    }

    /// Reads what [`Ranges::to_bytes`] wrote; `None` where it is anything else.
    pub fn read(mut bytes: &[u8]) -> Option<Vec<Range>> {
        let mut ranges = Vec::new();
        while !bytes.is_empty() {
            let upto = Key::decode_from(&mut bytes)?;
            let (records, rest) = bytes.split_first_chunk()?;
            let (sum, rest) = rest.split_first_chunk()?;
            bytes = rest;
            ranges.push(Range { upto, records: u64::from_be_bytes(*records), sum: KeySum(*sum) });
        }
        Some(ranges)
    }
}

impl Part {
    /// Keeps sealed bytes as text.
    pub fn armor(sealed: &[u8]) -> String {
        STANDARD.encode(sealed)
    }

    /// The sealed bytes.
    ///
    /// # Errors
    /// When the text is damaged.
    pub fn sealed_bytes(&self) -> Result<Vec<u8>, InvalidPlan> {
        STANDARD.decode(&self.sealed).map_err(|_| InvalidPlan::Form)
    }

    /// The ranges, from their unsealed bytes, as many as the plan says and with the records and the
    /// sum that it says.
    ///
    /// # Errors
    /// When they are not.
    pub fn ranges(&self, unsealed: &[u8]) -> Result<Vec<Range>, InvalidPlan> {
        let ranges = Ranges::read(unsealed).ok_or(InvalidPlan::Form)?;
        let mut sum = KeySum::default();
        for range in &ranges {
            sum += range.sum;
        }
        let records: u64 = ranges.iter().map(|range| range.records).sum();
        let is_whole = ranges.len() as u64 == self.ranges
            && records == self.due
            && sum.to_hex() == self.keys_digest;
        if is_whole { Ok(ranges) } else { Err(InvalidPlan::Form) }
    }

    /// Whether each record is a range of its own.
    pub fn names_each_record(&self) -> bool {
        self.ranges == self.due
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::KeyValue;

    fn key(id: u64) -> Key {
        Key(vec![KeyValue::Int(i128::from(id))])
    }

    fn commitment(id: u64) -> [u8; 32] {
        Sha256::digest(id.to_be_bytes()).into()
    }

    fn cut(ids: impl Iterator<Item = u64>, about: u64) -> Ranges {
        let mut ranges = Ranges::for_about(about);
        ids.for_each(|id| ranges.push(key(id), commitment(id)));
        ranges
    }

    #[test]
    fn few_records_are_named_each_and_many_in_ranges() {
        let few = cut(0..10_000, 10_000);
        assert_eq!(few.as_slice().len(), 10_000);
        let many = cut(0..45_000, 45_000);
        assert_eq!((many.as_slice().len(), many.records()), (9_000, 45_000));
        assert!(many.as_slice().iter().all(|range| range.records == 5));
    }

    #[test]
    fn a_sum_carries_over_bytes() {
        let mut sum = KeySum([0xff; 32]);
        let mut one = [0; 32];
        one[31] = 1;
        sum += one;
        assert_eq!(sum, KeySum::default());
        sum += one;
        assert_eq!(sum.to_hex().trim_start_matches('0'), "1");
    }

    fn plan() -> SavedPlan {
        let ranges = cut(0..7, 7);
        SavedPlan {
            id: Uuid::from_u128(7),
            version: "0.1.0".into(),
            made_at: Timestamp::UNIX_EPOCH,
            valid_until: Timestamp::UNIX_EPOCH,
            margin: 0.1,
            rules: vec![Part {
                rule: "a".parse().unwrap(),
                rule_digest: "d".into(),
                store: "app".parse().unwrap(),
                table: "t".into(),
                schema_digest: "s".into(),
                action: "delete".into(),
                cutoff: Timestamp::UNIX_EPOCH,
                due: 7,
                total: 70,
                ranges: 7,
                keys_digest: ranges.sum().to_hex(),
                sealed: Part::armor(&ranges.to_bytes()),
            }],
        }
    }

    #[test]
    fn a_plan_reads_back_as_written_and_its_digest_follows_every_part_of_it() {
        let plan = plan();
        let text = plan.to_text();
        assert!(text.chars().all(|c| c >= ' ' || c == '\n'), "a note can carry it");
        assert_eq!(SavedPlan::from_text(&text).unwrap(), plan);
        assert_eq!(SavedPlan::from_text("expunged plan 2\n{}\n"), Err(InvalidPlan::Form));
        let mut other = plan.clone();
        other.rules[0].cutoff = Timestamp::MAX;
        assert_ne!(other.digest(), plan.digest());
    }

    #[test]
    fn ranges_that_are_not_the_plans_are_refused() {
        let plan = plan();
        let part = &plan.rules[0];
        let sealed = part.sealed_bytes().unwrap();
        assert_eq!(part.ranges(&sealed).unwrap().len(), 7);
        assert!(part.names_each_record());
        let others = cut(1..8, 7);
        assert_eq!(part.ranges(&others.to_bytes()), Err(InvalidPlan::Form));
        assert_eq!(part.ranges(&sealed[1..]), Err(InvalidPlan::Form));
        assert_eq!(part.ranges(&[]), Err(InvalidPlan::Form));
    }

    proptest! {
        #[test]
        fn neighbouring_ranges_add_up_to_their_records_in_any_order(
            count in 1u64..300, about in 0u64..3_000_000, from in 0usize..300, to in 0usize..300,
        ) {
            let ranges = cut(0..count, about);
            let read = Ranges::read(&ranges.to_bytes()).unwrap();
            prop_assert_eq!(&read, ranges.as_slice());
            let (from, to) = (from.min(read.len()), to.min(read.len()));
            let (mut sum, mut taken) = (KeySum::default(), KeySum::default());
            let window = &read[from.min(to)..to.max(from)];
            for range in window {
                sum += range.sum;
            }
            let before: u64 = read[..from.min(to)].iter().map(|range| range.records).sum();
            let inside: u64 = window.iter().map(|range| range.records).sum();
            (before..before + inside).rev().for_each(|id| taken += commitment(id));
            prop_assert_eq!(sum, taken);
            if inside > 0 {
                taken += commitment(u64::MAX);
                prop_assert_ne!(sum, taken);
            }
        }
    }
}
