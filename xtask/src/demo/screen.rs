//! How the demo looks: a picture of the lab, a line or two for each step, bars for the spread.

use std::collections::BTreeMap;

use crate::{
    lab::{CLIENT_V4, VIP_V4, VIP_V6},
    ui,
};

/// Characters of the longest bar.
const BAR: usize = 40;

/// The lab, and where its parts are.
pub(super) fn picture(server: &str) -> String {
    format!(
        "  client {CLIENT_V4} ── router ── balancer: lbd, services {VIP_V4}:80 and [{VIP_V6}]:80\n  \
                               {pad}├──────── backend-1, backend-2 ({server}, lb_decap)\n  \
                               {pad}└──────── backend-3, which is also cabled to the balancer\n",
        pad = " ".repeat(27),
    )
}

/// A bar for each backend, by family.
pub(super) fn bars(spread: &BTreeMap<String, [usize; 2]>) -> Vec<String> {
    let most = spread.values().map(|counts| counts.iter().sum::<usize>()).max().unwrap_or(0).max(1);
    let total: usize = spread.values().flatten().sum();
    let width = spread.keys().map(String::len).max().unwrap_or(0);
    let bar = |(name, [v4, v6]): (&String, &[usize; 2])| {
        let (first, second) = (v4 * BAR / most, v6 * BAR / most);
        let bar = "█".repeat(first) + &"▒".repeat(second);
        let share = (v4 + v6) * 100 / total.max(1);
        format!("{name:width$}  {bar:BAR$}  {share:2} %  {v4} IPv4 + {v6} IPv6")
    };
    spread.iter().map(bar).collect()
}

/// The beginning of a step; its outcome follows on the same line of sight.
pub(super) fn title(number: usize, title: &str) {
    println!("{} {}", ui::bold(&format!("{number}.")), ui::bold(title));
}

pub(super) fn good(lines: &[String]) {
    for (number, line) in lines.iter().enumerate() {
        let mark = if number == 0 { ui::green("ok") } else { "  ".to_owned() };
        println!("   {mark} {line}");
    }
}

pub(super) fn bad(why: &str) {
    println!("   {} {why}", ui::red("failed"));
}

/// Every step with its figure, what that had to be, and whether it was.
pub(super) fn summary(rows: Vec<Vec<String>>) {
    let head = ["step", "figure", "wanted", ""].map(str::to_owned).to_vec();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    print!("\n{}", ui::table(&rows));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_fills_its_room() {
        let spread = BTreeMap::from([("backend-1".to_owned(), [10, 10]), ("backend-2".to_owned(), [5, 5])]);
        let bars = bars(&spread);
        assert!(bars[0].contains(&("█".repeat(20) + &"▒".repeat(20))), "{}", bars[0]);
        assert!(bars[1].ends_with("33 %  5 IPv4 + 5 IPv6"), "{}", bars[1]);
    }
}
