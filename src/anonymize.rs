//! The anonymization strategies, and which of them only pseudonymize.
//!
//! A strategy replaces one column's value. Where its result can be told from an original by looking
//! at the column (`is_recognizable`), the columns' own state says that a record was anonymized; where
//! it cannot, the rule needs a marker column. What is computed from a secret key is pseudonymized,
//! not anonymized (GDPR Art. 4(5)), and says so wherever it is shown.

use std::collections::BTreeMap;

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
}
