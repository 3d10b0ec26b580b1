use super::*;

fn failures(put_off: &PutOff, rule: &Name) -> Option<u32> {
    put_off.0.get(rule).map(|wait| wait.failures)
}

#[test]
fn all_events_of_a_rule_wait_after_a_failure_and_none_once_it_went_well() {
    let (rule, mut put_off) = ("a".parse().unwrap(), PutOff::default());
    for expected in 0..3 {
        put_off.ended(&rule, Outlook::Failing);
        assert!(put_off.contains(&rule));
        assert_eq!(failures(&put_off, &rule), Some(expected));
    }
    put_off.ended(&rule, Outlook::Clear);
    assert!(!put_off.contains(&rule));
    assert_eq!(put_off.left(|_| false), Duration::MAX);
}

#[test]
fn stuck_events_wait_alone_and_runs_of_others_neither_hasten_nor_delay_them() {
    let (rule, mut put_off) = ("a".parse().unwrap(), PutOff::default());
    put_off.ended(&rule, Outlook::SomeStuck);
    for others in [Outlook::SomeStuck, Outlook::Clear, Outlook::SomeStuck] {
        assert!(!put_off.contains(&rule), "others are worked off");
        put_off.ended(&rule, others);
        assert_eq!(failures(&put_off, &rule), Some(0));
    }
    put_off.0.get_mut(&rule).unwrap().is_tried = true;
    put_off.ended(&rule, Outlook::SomeStuck);
    assert_eq!(failures(&put_off, &rule), Some(1));
    put_off.0.get_mut(&rule).unwrap().is_tried = true;
    put_off.ended(&rule, Outlook::Clear);
    assert_eq!(failures(&put_off, &rule), None);
}
