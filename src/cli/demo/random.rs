//! Numbers and personal details that look random and are the same each time.
//!
//! Nothing in here can belong to anybody: addresses end in domains that are kept for examples (RFC
//! 2606), telephone numbers are from ranges kept for fiction, IP addresses from those kept for
//! documentation (RFC 5737 and 3849).

/// A splitmix64 generator (Steele, Lea and Flood, 2014). Never for secrets.
pub(super) struct Random(u64);

const FIRST_NAMES: [&str; 40] = [
    "Amara", "Anna", "Aylin", "Ben", "Carla", "Chen", "Clara", "Dmitri", "Elif", "Emil", "Emma",
    "Farid", "Greta", "Hanna", "Hugo", "Ida", "Ines", "Jakub", "Jonas", "Kenji", "Lara", "Leo",
    "Lina", "Luca", "Maja", "Marta", "Mei", "Milan", "Nadia", "Noah", "Olga", "Omar", "Paul",
    "Priya", "Rosa", "Samir", "Sofia", "Theo", "Yusuf", "Zoe",
];
const LAST_NAMES: [&str; 40] = [
    "Adler", "Arslan", "Bauer", "Becker", "Berg", "Braun", "Costa", "Demir", "Diaz", "Fischer",
    "Fontaine", "Garcia", "Haas", "Hansen", "Hoffmann", "Horvat", "Ivanova", "Jansen", "Kaya",
    "Keller", "Kim", "Klein", "Kowalski", "Kumar", "Lange", "Lehmann", "Li", "Meyer", "Moreau",
    "Nguyen", "Novak", "Okafor", "Petrov", "Rossi", "Sato", "Schmidt", "Silva", "Vogel", "Weber",
    "Yilmaz",
];
const USER_AGENTS: [&str; 5] = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/138.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 14_5) AppleWebKit/605.1.15 Version/17.5 Safari/605.1.15",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148",
    "photo-app/4.2 (Android 14; Pixel 8)",
];

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 up to, not including, `end`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        // The slight preference for small numbers does not show.
        usize::try_from(self.next() % (end.max(1) as u64)).unwrap_or_default()
    }

    /// A number from 0 up to, not including, 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are what a double holds")]
    pub(super) fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True so many times out of a hundred.
    pub(super) fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(super) fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from.get(self.below(from.len())).copied().unwrap_or_default()
    }

    pub(super) fn name(&mut self) -> String {
        format!("{} {}", self.pick(&FIRST_NAMES), self.pick(&LAST_NAMES))
    }

    /// An address made of the name; `number` keeps it apart from others of that name.
    pub(super) fn email(&mut self, name: &str, number: usize) -> String {
        let local = name.to_lowercase().replace(' ', ".");
        let domain = self.pick(&["example.com", "example.net", "example.org", "mail.example"]);
        format!("{local}{number}@{domain}")
    }

    pub(super) fn phone(&mut self) -> String {
        if self.percent(70) {
            format!("+49 30 23125 {:03}", self.below(1_000))
        } else {
            format!("+1 {}55 555 01{:02}", 2 + self.below(7), self.below(100))
        }
    }

    pub(super) fn birth_date(&mut self) -> String {
        let (year, month, day) = (1955 + self.below(50), 1 + self.below(12), 1 + self.below(28));
        format!("{year}-{month:02}-{day:02}")
    }

    pub(super) fn postal_code(&mut self) -> String {
        format!("{:05}", 1_067 + self.below(98_000))
    }

    pub(super) fn ip_address(&mut self) -> String {
        if self.percent(20) {
            let (site, host) = (self.below(0xffff), self.below(0xffff));
            return format!("2001:db8:{site:x}::{host:x}");
        }
        let network = self.pick(&["192.0.2", "198.51.100", "203.0.113"]);
        format!("{network}.{}", 1 + self.below(254))
    }

    pub(super) fn user_agent(&mut self) -> &'static str {
        self.pick(&USER_AGENTS)
    }

    /// So many hexadecimal digits, at most 16.
    pub(super) fn hex(&mut self, digits: usize) -> String {
        let text = format!("{:016x}", self.next());
        text[..digits.min(text.len())].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_published_sequence() {
        // The reference implementation's first numbers for this seed.
        let mut random = Random::new(1_234_567);
        let first: Vec<_> = (0..3).map(|_| random.next()).collect();
        assert_eq!(
            first,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn fractions_stay_below_one() {
        let mut random = Random::new(0);
        assert!((0..10_000).map(|_| random.fraction()).all(|part| (0.0..1.0).contains(&part)));
    }
}
