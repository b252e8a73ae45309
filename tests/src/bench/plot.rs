//! The curves as pictures: SVG made by hand, one file for each question, from the rows alone.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};

use super::row::Row;

/// A picture: rows whose ids begin alike and end in a number.
struct Picture {
    file: &'static str,
    title: &'static str,
    /// What the numbers at the ends of the ids count.
    across: &'static str,
    /// For each curve its name, and how its ids begin.
    curves: &'static [(&'static str, &'static str)],
}

const PICTURES: [Picture; 5] = [
    Picture {
        file: "flows",
        title: "One packet, by the number of flows",
        across: "flows",
        curves: &[
            ("TCP4 IPIP, untracked", "packet/tcp4-ipip/flows="),
            ("UDP4 IPIP, untracked", "packet/udp4-ipip/flows="),
            ("TCP6 in IPv6, untracked", "packet/tcp6-6in6/flows="),
            ("tracked, recorded", "tracked/hit/flows="),
            ("tracked, not recorded", "tracked/miss/flows="),
            ("track = always", "always/flows="),
        ],
    },
    Picture {
        file: "backends",
        title: "One packet, by the number of backends (1M flows)",
        across: "backends",
        curves: &[("TCP4 IPIP, untracked", "packet/backends=")],
    },
    Picture {
        file: "services",
        title: "One packet, by the number of services (1M flows)",
        across: "services",
        curves: &[("TCP4 IPIP, untracked", "packet/services=")],
    },
    Picture {
        file: "tables",
        title: "Two tables for flows, by the number of flows",
        across: "flows",
        curves: &[
            ("buckets in an array map", "table/buckets/flows="),
            ("the kernel's LRU hash", "table/lru/flows="),
        ],
    },
    Picture {
        file: "stages",
        title: "How far a packet has come, by the number of flows",
        across: "flows",
        curves: &[
            ("slot", "stage/slot/flows="),
            ("backend's record", "stage/backend/flows="),
            ("length", "stage/length/flows="),
            ("whole way", "packet/tcp4-ipip/flows="),
        ],
    },
];

/// A curve with its points in the order of rising x.
struct Curve<'a> {
    name: &'a str,
    points: Vec<(f64, &'a Row)>,
}

/// Writes a picture for every question that at least two rows answer. Returns the files.
pub fn write(rows: &[Row], directory: &Path) -> Result<Vec<String>> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let mut files = Vec::new();
    for picture in PICTURES {
        let curves: Vec<Curve<'_>> =
            picture.curves.iter().map(|(name, begins)| curve(rows, name, begins)).collect();
        let curves: Vec<Curve<'_>> = curves.into_iter().filter(|curve| curve.points.len() > 1).collect();
        if curves.is_empty() {
            continue;
        }
        let file = directory.join(format!("{}.svg", picture.file));
        fs::write(&file, svg(&picture, &curves))
            .with_context(|| format!("cannot write {}", file.display()))?;
        files.push(file.display().to_string());
    }
    Ok(files)
}

fn curve<'a>(rows: &'a [Row], name: &'a str, begins: &str) -> Curve<'a> {
    let mut points: Vec<(f64, &Row)> =
        rows.iter().filter_map(|row| Some((count(row.id.strip_prefix(begins)?)?, row))).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    Curve { name, points }
}

/// `16k` is 16,384; a plain number is itself.
fn count(text: &str) -> Option<f64> {
    let (digits, unit) = match text.strip_suffix('k') {
        Some(digits) => (digits, 1024.0),
        None => text.strip_suffix('M').map_or((text, 1.0), |digits| (digits, 1024.0 * 1024.0)),
    };
    Some(digits.parse::<f64>().ok()? * unit)
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 200.0;
const TOP: f64 = 46.0;
const BOTTOM: f64 = 56.0;
/// Colours that people with colour blindness can distinguish as well (Okabe and Ito, 2008).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

fn svg(picture: &Picture, curves: &[Curve<'_>]) -> String {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let most = points().map(|(x, _)| *x).fold(1.0, f64::max).log2().max(1.0);
    let highest = points().map(|(_, row)| row.max).fold(1.0, f64::max);
    let step = step(highest);
    let top = (highest / step).ceil() * step;
    let x = |value: f64| LEFT + (WIDTH - LEFT - RIGHT) * value.log2() / most;
    let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top;

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"15\">{}</text>\n",
        picture.title
    );
    let mut line = 0.0;
    while line <= top {
        let at = y(line);
        writeln!(
            svg,
            "<path d=\"M{LEFT} {at:.1}H{:.1}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\" \
             text-anchor=\"end\">{line}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0
        )
        .ok();
        line += step;
    }
    let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
    writeln!(svg, "<text transform=\"translate(16 {middle}) rotate(-90)\" text-anchor=\"middle\">ns</text>")
        .ok();
    let mut marks: Vec<(f64, &str)> =
        points().filter_map(|(x, row)| Some((*x, row.id.rsplit_once('=')?.1))).collect();
    marks.sort_by(|a, b| a.0.total_cmp(&b.0));
    marks.dedup();
    for (value, name) in marks {
        let at = HEIGHT - BOTTOM;
        writeln!(
            svg,
            "<path d=\"M{0:.1} {at}v5\" stroke=\"#333\"/><text x=\"{0:.1}\" y=\"{1}\" \
             text-anchor=\"middle\">{name}</text>",
            x(value),
            at + 20.0
        )
        .ok();
    }
    let centre = (LEFT + WIDTH - RIGHT) / 2.0;
    writeln!(
        svg,
        "<text x=\"{centre}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        HEIGHT - 12.0,
        picture.across
    )
    .ok();
    for (place, curve) in curves.iter().enumerate() {
        draw(&mut svg, curve, COLOURS[place % COLOURS.len()], place, &x, &y);
    }
    svg.push_str("</svg>\n");
    svg
}

/// Draws the line through the medians, a bar from minimum to maximum at each, and the name.
fn draw(
    svg: &mut String,
    curve: &Curve<'_>,
    colour: &str,
    place: usize,
    x: &dyn Fn(f64) -> f64,
    y: &dyn Fn(f64) -> f64,
) {
    let mut path = String::new();
    for (number, (across, row)) in curve.points.iter().enumerate() {
        let begin = if number == 0 { 'M' } else { 'L' };
        write!(path, "{begin}{:.1} {:.1}", x(*across), y(row.median)).ok();
        writeln!(
            svg,
            "<path d=\"M{0:.1} {1:.1}V{2:.1}\" stroke=\"{colour}\" opacity=\"0.5\"/>\
             <circle cx=\"{0:.1}\" cy=\"{3:.1}\" r=\"3\" fill=\"{colour}\"><title>{4}: {5}</title></circle>",
            x(*across),
            y(row.min),
            y(row.max),
            y(row.median),
            row.id,
            row.median
        )
        .ok();
    }
    let (left, at) = (WIDTH - RIGHT + 16.0, TOP + 20.0 * place as f64);
    writeln!(
        svg,
        "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
         <path d=\"M{left} {at}h16\" stroke=\"{colour}\" stroke-width=\"2\"/><text x=\"{}\" y=\"{}\">{}</text>",
        left + 22.0,
        at + 4.0,
        curve.name
    )
    .ok();
}

/// A round distance between grid lines, so that there are five to ten of them.
fn step(highest: f64) -> f64 {
    let power = 10f64.powf((highest / 5.0).log10().floor());
    let wanted = highest / 5.0 / power;
    power
        * if wanted >= 5.0 {
            5.0
        } else if wanted >= 2.0 {
            2.0
        } else {
            1.0
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, median: f64) -> Row {
        Row {
            id: id.to_owned(),
            what: String::new(),
            unit: "ns".to_owned(),
            median,
            min: median,
            max: median,
            noise: 0.0,
            floor: None,
            net: None,
            target: None,
            met: None,
            wants_cache: false,
        }
    }

    #[test]
    fn counts_are_read_as_rows_name_them() {
        assert_eq!((count("1"), count("16k"), count("1M")), (Some(1.0), Some(16_384.0), Some(1_048_576.0)));
        assert_eq!((count("x"), count("")), (None, None));
    }

    #[test]
    fn points_lie_in_the_order_of_what_they_count() {
        let rows = [row("a/flows=1M", 3.0), row("a/flows=1", 1.0), row("a/flows=64k", 2.0), row("b", 9.0)];
        let medians: Vec<f64> =
            curve(&rows, "a", "a/flows=").points.iter().map(|(_, row)| row.median).collect();
        assert_eq!(medians, [1.0, 2.0, 3.0]);
    }

    #[test]
    fn a_question_with_one_answer_makes_no_picture() {
        let directory = tempfile::tempdir().unwrap();
        let one = [row("packet/backends=1", 60.0)];
        assert!(write(&one, directory.path()).unwrap().is_empty());
        let two = [row("packet/backends=1", 60.0), row("packet/backends=100", 61.0)];
        let files = write(&two, directory.path()).unwrap();
        assert_eq!(files.len(), 1);
        let svg = fs::read_to_string(&files[0]).unwrap();
        assert!(svg.contains("packet/backends=100: 61") && svg.ends_with("</svg>\n"), "{svg}");
    }

    #[test]
    fn lines_lie_at_round_numbers() {
        assert_eq!((step(100.0), step(73.0), step(1400.0)), (20.0, 10.0, 200.0));
    }
}
