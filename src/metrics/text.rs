//! The text format of Prometheus (0.0.4), converted from OpenMetrics. In this format the metadata
//! lines of a counter or an info also use the name with its suffix, and there are no unit lines and
//! no end marker.

pub(super) fn of_openmetrics(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    let mut help = None;
    for line in open.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').map(|(_, help)| help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(split) {
            let (ending, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                _ => ("", kind),
            };
            let help = help.take().unwrap_or_default();
            text.extend(["# HELP ", name, ending, " ", help, "\n"]);
            text.extend(["# TYPE ", name, ending, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            text.extend([line, "\n"]);
        }
    }
    text
}

fn split(line: &str) -> Option<(&str, &str)> {
    line.split_once(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_infos_have_their_whole_names_and_there_is_no_end() {
        let open = "# HELP a Of a.\n# TYPE a counter\n# UNIT a seconds\na_total 1\n\
                    # HELP b B.\n# TYPE b info\nb_info{c=\"d\"} 1\n\
                    # HELP e E.\n# TYPE e gauge\ne 2\n# EOF\n";
        let text = "# HELP a_total Of a.\n# TYPE a_total counter\na_total 1\n\
                    # HELP b_info B.\n# TYPE b_info gauge\nb_info{c=\"d\"} 1\n\
                    # HELP e E.\n# TYPE e gauge\ne 2\n";
        assert_eq!(of_openmetrics(open), text);
    }
}
