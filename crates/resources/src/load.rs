use api::v1::ResourcesLoad;

use crate::tree::Tree;

/// Load averages.
pub(crate) fn read(tree: &Tree) -> ResourcesLoad {
    parse(&tree.text("proc/loadavg").unwrap_or_default()).unwrap_or_default()
}

/// `0.03 0.06 0.01 2/345 6789`
fn parse(text: &str) -> Option<ResourcesLoad> {
    let mut words = text.split_whitespace();
    let mut average = || words.next()?.parse::<f64>().ok().filter(|average| average.is_finite());
    let (average_1min, average_5min, average_10min) = (average()?, average()?, average()?);
    let processes = words.next()?.split_once('/')?.1.parse().ok()?;
    Some(ResourcesLoad { average_1min, average_5min, average_10min, processes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_and_processes_are_read() {
        let load = parse("0.50 0.25 0.10 2/345 6789").unwrap();
        assert_eq!(
            serde_json::to_string(&load).unwrap(),
            r#"{"Average1Min":0.5,"Average5Min":0.25,"Average10Min":0.1,"Processes":345}"#
        );
        for text in ["", "1 2", "1 2 3", "1 2 3 4", "NaN 1 1 1/1", "a b c 1/2"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
