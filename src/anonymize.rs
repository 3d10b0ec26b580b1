//! The anonymization strategies, and which of them only pseudonymize.
//!
//! A strategy replaces one column's value. Where its result can be told from an original by looking
//! at the column (`is_recognizable`), the columns' own state says that a record was anonymized; where
//! it cannot, the rule needs a marker column. What is computed from a secret key is pseudonymized,
//! not anonymized (GDPR Art. 4(5)), and says so wherever it is shown.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

/// The unit that a date or time is truncated to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DateUnit {
    /// The first day of the year.
    Year,
    /// The first day of the month.
    Month,
    /// Midnight.
    Day,
}

/// What a fake value imitates.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FakeKind {
    /// A first and last name.
    Name,
    /// A first name.
    FirstName,
    /// A last name.
    LastName,
    /// An address under `example.invalid`, which can never be delivered (RFC 2606).
    Email,
    /// A telephone number from the range reserved for fiction (+1 555 01xx).
    Phone,
    /// A city.
    City,
}

/// How one column of a due record is changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "strategy", rename_all = "snake_case")]
pub enum Strategy {
    /// Set to NULL.
    Null,
    /// Set to one fixed value, given as text and converted by the database to the column's type.
    Constant {
        /// The value.
        value: String,
    },
    /// A date or time cut down to its year, month or day.
    TruncateDate {
        /// The unit that stays.
        to: DateUnit,
    },
    /// A number rounded down to a multiple of `step`.
    GeneralizeNumber {
        /// The width of a bucket, at least 2.
        step: u64,
    },
    /// An IP address cut down to its network.
    GeneralizeIp {
        /// Bits of an IPv4 address that stay, 0 to 32; by default 24.
        ipv4_prefix: u8,
        /// Bits of an IPv6 address that stay, 0 to 128; by default 48.
        ipv6_prefix: u8,
    },
    /// A text whose first and last characters stay and whose others are masked one by one; a text
    /// no longer than what would stay is masked whole.
    Partial {
        /// Characters that stay at the start.
        keep_first: u32,
        /// Characters that stay at the end.
        keep_last: u32,
        /// The character that stands for each one removed.
        mask: char,
    },
    /// HMAC-SHA256 of the value in hexadecimal, keyed with expunged's pseudonym key. Pseudonymizes.
    Hmac,
    /// A random value of the column's type.
    Random,
    /// An invented value that looks real.
    Fake {
        /// What it imitates.
        kind: FakeKind,
        /// The same input gives the same output, by the pseudonym key. Pseudonymizes.
        deterministic: bool,
    },
}

impl Strategy {
    /// The result still singles out the same person for whoever holds the key (GDPR Art. 4(5)).
    pub fn pseudonymizes(&self) -> bool {
        matches!(self, Strategy::Hmac | Strategy::Fake { deterministic: true, .. })
    }

    /// Whether the column's value alone shows that the strategy was applied: applying it again
    /// changes nothing.
    pub fn is_recognizable(&self) -> bool {
        match self {
            Strategy::Null
            | Strategy::Constant { .. }
            | Strategy::TruncateDate { .. }
            | Strategy::GeneralizeNumber { .. }
            | Strategy::Partial { .. } => true,
            Strategy::GeneralizeIp { .. }
            | Strategy::Hmac
            | Strategy::Random
            | Strategy::Fake { .. } => false,
        }
    }

    /// The strategy's name in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Strategy::Null => "null",
            Strategy::Constant { .. } => "constant",
            Strategy::TruncateDate { .. } => "truncate_date",
            Strategy::GeneralizeNumber { .. } | Strategy::GeneralizeIp { .. } => "generalize",
            Strategy::Partial { .. } => "partial",
            Strategy::Hmac => "hmac",
            Strategy::Random => "random",
            Strategy::Fake { .. } => "fake",
        }
    }
}

/// How a record is anonymized: a strategy per column, and how it is known afterwards.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Anonymization {
    /// The columns that change. Never empty.
    pub columns: BTreeMap<String, Strategy>,
    /// A nullable column that is set to the moment of anonymization; a record in which it is set is
    /// not due again.
    pub marker: Option<String>,
}

/// Why a set of strategies cannot be carried out.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidAnonymization {
    /// No column was named.
    #[error("it changes no column: name at least one, such as `email = \"null\"`")]
    NoColumns,
    /// Nothing would tell an anonymized record from a fresh one.
    #[error(
        "after `{strategy}` the column `{column}` does not show that it was anonymized: name a nullable date-time column as `marker`"
    )]
    NeedsMarker {
        /// The column at fault.
        column: String,
        /// Its strategy.
        strategy: &'static str,
    },
    /// The marker is also changed by a strategy.
    #[error("the marker column `{0}` cannot be anonymized itself")]
    MarkerIsChanged(String),
}

impl Anonymization {
    /// Checks that a record can be told from an anonymized one afterwards.
    ///
    /// # Errors
    /// When no column is named, when a strategy leaves no trace and there is no marker, or when the
    /// marker is changed itself.
    pub fn new(
        columns: BTreeMap<String, Strategy>,
        marker: Option<String>,
    ) -> Result<Self, InvalidAnonymization> {
        if columns.is_empty() {
            return Err(InvalidAnonymization::NoColumns);
        }
        match &marker {
            Some(marker) if columns.contains_key(marker) => {
                return Err(InvalidAnonymization::MarkerIsChanged(marker.clone()));
            }
            Some(_) => {}
            None => {
                if let Some((column, strategy)) =
                    columns.iter().find(|(_, strategy)| !strategy.is_recognizable())
                {
                    return Err(InvalidAnonymization::NeedsMarker {
                        column: column.clone(),
                        strategy: strategy.name(),
                    });
                }
            }
        }
        Ok(Anonymization { columns, marker })
    }

    /// The columns whose strategy only pseudonymizes.
    pub fn pseudonymized_columns(&self) -> Vec<&str> {
        self.columns
            .iter()
            .filter(|(_, strategy)| strategy.pseudonymizes())
            .map(|(column, _)| column.as_str())
            .collect()
    }
}

/// What kind of value a column wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// Text of at most so many characters.
    Text(usize),
    /// An integer up to this one.
    Integer(u32),
    /// A UUID.
    Uuid,
}

/// The new value of a column whose strategy is not carried out by the database. NULL stays NULL.
///
/// `pseudonym` is a keyed function of the old value; `random` gives fresh random bytes.
pub fn replacement(
    strategy: &Strategy,
    wanted: Wanted,
    old: Option<&str>,
    pseudonym: &dyn Fn(&[u8]) -> [u8; 32],
    random: &dyn Fn() -> [u8; 32],
) -> Option<String> {
    let old = old?;
    let text = match strategy {
        Strategy::Hmac => hex::encode(pseudonym(old.as_bytes())),
        Strategy::Random => return Some(random_value(wanted, random())),
        Strategy::Fake { kind, deterministic: true } => fake(*kind, pseudonym(old.as_bytes())),
        Strategy::Fake { kind, deterministic: false } => fake(*kind, random()),
        Strategy::GeneralizeIp { ipv4_prefix, ipv6_prefix } => {
            network(old, *ipv4_prefix, *ipv6_prefix)
        }
        Strategy::Null
        | Strategy::Constant { .. }
        | Strategy::TruncateDate { .. }
        | Strategy::GeneralizeNumber { .. }
        | Strategy::Partial { .. } => return None,
    };
    match wanted {
        Wanted::Text(most) => Some(text.chars().take(most).collect()),
        Wanted::Integer(_) | Wanted::Uuid => Some(text),
    }
}

fn random_value(wanted: Wanted, bytes: [u8; 32]) -> String {
    let [a, b, c, d, ..] = bytes;
    match wanted {
        Wanted::Text(most) => hex::encode(&bytes[..16]).chars().take(most).collect(),
        Wanted::Integer(most) => (u32::from_be_bytes([a, b, c, d]) % most.max(1)).to_string(),
        Wanted::Uuid => {
            let mut sixteen = [0; 16];
            sixteen.copy_from_slice(&bytes[..16]);
            uuid::Builder::from_random_bytes(sixteen).into_uuid().to_string()
        }
    }
}

const FIRST_NAMES: [&str; 16] = [
    "Alex", "Robin", "Kim", "Sam", "Noor", "Jamie", "Charlie", "Sascha", "Yuki", "Toni", "Nikola",
    "Andrea", "Ming", "Jules", "Amal", "Luca",
];
const LAST_NAMES: [&str; 16] = [
    "Miller", "Garcia", "Nowak", "Rossi", "Silva", "Kaya", "Novak", "Larsen", "Tanaka", "Chen",
    "Okafor", "Haddad", "Dubois", "Weber", "Ivanova", "Kumar",
];
const CITIES: [&str; 16] = [
    "Riverton",
    "Northfield",
    "Lakeside",
    "Easton",
    "Westbrook",
    "Hillview",
    "Fairhaven",
    "Oakdale",
    "Brookfield",
    "Ashford",
    "Milltown",
    "Greenport",
    "Stonebridge",
    "Clearwater",
    "Maplewood",
    "Summerfield",
];

fn fake(kind: FakeKind, bytes: [u8; 32]) -> String {
    let pick = |list: [&'static str; 16], byte: u8| list[usize::from(byte) % list.len()];
    let (first, last) = (pick(FIRST_NAMES, bytes[0]), pick(LAST_NAMES, bytes[1]));
    match kind {
        FakeKind::Name => format!("{first} {last}"),
        FakeKind::FirstName => first.to_owned(),
        FakeKind::LastName => last.to_owned(),
        FakeKind::City => pick(CITIES, bytes[2]).to_owned(),
        FakeKind::Phone => format!("+1 555 01{:02}", bytes[3] % 100),
        FakeKind::Email => format!("{}@example.invalid", hex::encode(&bytes[4..14])),
    }
}

/// The network of an address; `0.0.0.0` for what is not an address, so that nothing of it stays.
fn network(address: &str, ipv4_prefix: u8, ipv6_prefix: u8) -> String {
    let bare = address.split('/').next().unwrap_or(address).trim();
    match bare.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(ipv4_prefix.min(32))).unwrap_or(0);
            std::net::Ipv4Addr::from(u32::from(address) & mask).to_string()
        }
        Ok(IpAddr::V6(address)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(ipv6_prefix.min(128))).unwrap_or(0);
            std::net::Ipv6Addr::from(u128::from(address) & mask).to_string()
        }
        Err(_) => "0.0.0.0".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(list: &[(&str, Strategy)]) -> BTreeMap<String, Strategy> {
        list.iter().map(|(column, strategy)| (column.to_string(), strategy.clone())).collect()
    }

    #[test]
    fn a_strategy_that_leaves_no_trace_needs_a_marker() {
        let hmac = columns(&[("email", Strategy::Hmac)]);
        let error = Anonymization::new(hmac.clone(), None).unwrap_err();
        assert!(error.to_string().contains("`marker`"), "{error}");
        let anonymization = Anonymization::new(hmac, Some("anonymized_at".into())).unwrap();
        assert_eq!(anonymization.pseudonymized_columns(), ["email"]);
    }

    #[test]
    fn columns_that_show_their_state_need_none() {
        let plain = columns(&[
            ("email", Strategy::Null),
            ("zip", Strategy::Partial { keep_first: 2, keep_last: 0, mask: '*' }),
        ]);
        assert!(Anonymization::new(plain, None).unwrap().pseudonymized_columns().is_empty());
    }

    #[test]
    fn an_empty_change_and_a_changed_marker_are_refused() {
        assert_eq!(Anonymization::new(BTreeMap::new(), None), Err(InvalidAnonymization::NoColumns));
        let clash = columns(&[("done_at", Strategy::Null)]);
        assert!(Anonymization::new(clash, Some("done_at".into())).is_err());
    }

    fn replace(strategy: &Strategy, wanted: Wanted, old: Option<&str>) -> Option<String> {
        replacement(strategy, wanted, old, &|value| [value[0]; 32], &|| [7; 32])
    }

    #[test]
    fn addresses_keep_only_their_network() {
        let ip = Strategy::GeneralizeIp { ipv4_prefix: 24, ipv6_prefix: 48 };
        let network = |old| replace(&ip, Wanted::Text(45), Some(old)).unwrap();
        assert_eq!(network("203.0.113.77"), "203.0.113.0");
        assert_eq!(network("2001:db8:1:2:3::4"), "2001:db8:1::");
        assert_eq!(network("not an address"), "0.0.0.0");
        let all = Strategy::GeneralizeIp { ipv4_prefix: 0, ipv6_prefix: 0 };
        assert_eq!(replace(&all, Wanted::Text(45), Some("203.0.113.77")).unwrap(), "0.0.0.0");
    }

    #[test]
    fn pseudonyms_follow_the_value_and_fakes_do_not() {
        let wanted = Wanted::Text(200);
        let hmac = |old| replace(&Strategy::Hmac, wanted, Some(old)).unwrap();
        assert_eq!(hmac("ann"), hmac("a"));
        assert_ne!(hmac("ann"), hmac("bob"));
        let fake = Strategy::Fake { kind: FakeKind::Email, deterministic: false };
        let invented = replace(&fake, wanted, Some("ann@example.com")).unwrap();
        assert!(invented.ends_with("@example.invalid"), "{invented}");
        assert_eq!(replace(&fake, wanted, None), None, "NULL stays NULL");
    }

    #[test]
    fn values_fit_the_column() {
        assert_eq!(replace(&Strategy::Hmac, Wanted::Text(10), Some("x")).unwrap().len(), 10);
        let number = replace(&Strategy::Random, Wanted::Integer(100), Some("5")).unwrap();
        assert!(number.parse::<u32>().unwrap() < 100);
        let uuid = replace(&Strategy::Random, Wanted::Uuid, Some("x")).unwrap();
        assert!(uuid.parse::<uuid::Uuid>().is_ok());
    }
}
