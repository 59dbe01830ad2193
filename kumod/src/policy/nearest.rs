//! The nearest of the known names to one that isn't known, for error messages.

/// Names longer than this are not compared.
const NAME_OCTETS: usize = 64;

/// ` (did you mean X?)`, or nothing if none is near.
pub fn hint<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    if name.len() > NAME_OCTETS {
        return String::new();
    }
    let near = known.map(|other| (distance(name, other), other)).min();
    match near {
        Some((distance, other)) if distance <= 1 + name.len() / 4 => {
            format!(" (did you mean `{other}`?)")
        }
        _ => String::new(),
    }
}

/// Levenshtein's distance, over octets.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.bytes().enumerate() {
            let substituted = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_near_name_is_offered() {
        let known = ["get_queue_config", "get_egress_pool", "init"];
        let hint = |name| hint(name, known.into_iter());
        assert_eq!(hint("get_que_config"), " (did you mean `get_queue_config`?)");
        assert_eq!(hint("int"), " (did you mean `init`?)");
        assert_eq!(hint("something_else"), "");
        assert_eq!(hint(&"x".repeat(1000)), "");
        assert_eq!(super::hint("init", std::iter::empty()), "");
    }
}
