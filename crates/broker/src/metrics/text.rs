//! Writing Prometheus' text format, for what is read at the time of a scrape instead of counted.

use std::fmt::Write;

use kafscale_storage::{LATENCY_BUCKETS_US, LatencySnapshot};

/// Metric families in the text format, version 0.0.4.
#[derive(Debug, Default)]
pub struct Text {
    out: String,
}

/// What a family's values are.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Text {
    pub fn finish(self) -> String {
        self.out
    }

    /// Begins a family. Its samples must follow, and no other's.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = write!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// One value with its labels.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.out.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            self.out.push(if i == 0 { '{' } else { ',' });
            self.out.push_str(label);
            self.out.push_str("=\"");
            self.escaped(text);
            self.out.push('"');
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {value}");
    }

    /// A family of one value without labels.
    pub fn single(&mut self, name: &str, kind: Kind, help: &str, value: f64) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// The samples of a histogram: cumulative counts by upper bound, the count and the sum.
    pub fn histogram(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        counts: &[(f64, u64)],
        count: u64,
        sum: f64,
    ) {
        let bucket = format!("{name}_bucket");
        let mut below = |bound: &str, count: u64| {
            let labels: Vec<_> = labels.iter().copied().chain([("le", bound)]).collect();
            self.sample(&bucket, &labels, count as f64);
        };
        for (bound, count) in counts {
            below(&bound.to_string(), *count);
        }
        below("+Inf", count);
        self.sample(&format!("{name}_sum"), labels, sum);
        self.sample(&format!("{name}_count"), labels, count as f64);
    }

    /// The samples of a latency that the log measured, in seconds.
    pub fn latency(&mut self, name: &str, labels: &[(&str, &str)], read: &LatencySnapshot) {
        let bounds = LATENCY_BUCKETS_US.iter().map(|us| *us as f64 / 1e6);
        let counts: Vec<_> = bounds.zip(read.cumulative).collect();
        self.histogram(name, labels, &counts, read.count, read.sum_us as f64 / 1e6);
    }

    fn escaped(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '\\' => self.out.push_str("\\\\"),
                '"' => self.out.push_str("\\\""),
                '\n' => self.out.push_str("\\n"),
                other => self.out.push(other),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut text = Text::default();
        text.family("m", Kind::Gauge, "Help.");
        text.sample("m", &[("group", "a\"b\\c\nd"), ("p", "0")], 2.5);
        let expected = "# HELP m Help.\n# TYPE m gauge\nm{group=\"a\\\"b\\\\c\\nd\",p=\"0\"} 2.5\n";
        assert_eq!(text.finish(), expected);
    }

    #[test]
    fn a_histogram_ends_in_infinity() {
        let mut text = Text::default();
        text.histogram("h", &[], &[(0.5, 1), (1.0, 3)], 4, 9.0);
        let expected =
            "h_bucket{le=\"0.5\"} 1\nh_bucket{le=\"1\"} 3\nh_bucket{le=\"+Inf\"} 4\nh_sum 9\nh_count 4\n";
        assert_eq!(text.finish(), expected);
    }
}
