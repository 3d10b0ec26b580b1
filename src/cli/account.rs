//! Who is at the keyboard, as far as the system tells, and why: for the record, not for access control.

use std::fs;

use rustix::process::getuid;

use super::CliError;

/// The account that this process runs for: the one behind `sudo`, where there is one.
pub(crate) fn name() -> String {
    let uid = getuid().as_raw();
    let sudo = std::env::var("SUDO_USER").ok().filter(|user| uid == 0 && is_plain(user));
    sudo.or_else(|| of(uid)).unwrap_or_else(|| format!("uid {uid}"))
}

/// What somebody says with `--why`: nothing is recorded without a word.
pub(crate) fn reason(why: Option<&str>) -> Result<&str, CliError> {
    let said = why.map(str::trim).filter(|why| !why.is_empty());
    said.ok_or_else(|| CliError::Usage("say why: add `--why \"…\"`".to_owned()))
}

/// The name in `/etc/passwd`; accounts of a directory service are told by number.
fn of(uid: u32) -> Option<String> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let is_it = fields.nth(1)?.parse() == Ok(uid);
        (is_it && is_plain(name)).then(|| name.to_owned())
    })
}

/// A name that could be an account's, and not somebody's way into a log.
fn is_plain(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-@\\$".contains(c);
    !name.is_empty() && name.len() <= 64 && name.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_known_by_name_and_others_by_number() {
        assert_eq!(of(0).as_deref(), Some("root"));
        assert_eq!(of(4_000_000_000), None);
        assert!(is_plain("DOMAIN\\anna.b-1") && !is_plain("a b") && !is_plain(""));
    }
}
