//! Shows the page for made-up jobs at many moments, without running them.

use std::sync::LazyLock;
use std::time::SystemTime;

use hub::scenario::gallery;
use hub::web::page::with_data;
use serde_json::{Value, json};
use telemetry::view::Report;
use tempfile::TempDir;

use crate::driver::Browser;
use crate::picture;

struct Page {
    name: String,
    report: Report,
    address: String,
}

/// The pages of all jobs, written to files.
fn pages() -> &'static [Page] {
    static PAGES: LazyLock<(TempDir, Vec<Page>)> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let page = |(name, report): (String, Report)| {
            let file = folder.path().join(format!("{name}.html"));
            std::fs::write(&file, with_data(&serde_json::to_string(&report).unwrap())).unwrap();
            Page { name, report, address: format!("file://{}", file.display()) }
        };
        let pages = gallery(now).into_iter().map(page).collect();
        (folder, pages)
    });
    &PAGES.1
}

fn page(name: &str) -> &'static Page {
    pages().iter().find(|page| page.name == name).unwrap_or_else(|| panic!("no {name}"))
}

/// Elements that are wider than their container: the page itself, or a table.
const CLIPPED: &str = "
    const places = [document.documentElement, ...document.querySelectorAll('.scroll')];
    return places.filter(place => place.scrollWidth > place.clientWidth).map(place => place.outerHTML.slice(0, 200));";

/// Labels in charts that overlap each other, or extend beyond the chart.
const OVERLAPS: &str = "
    return [...document.querySelectorAll('svg.chart')].flatMap(svg => {
        const [labels, ends] = [[...svg.querySelectorAll('text')], svg.getBoundingClientRect()];
        const boxes = labels.map(label => [label.textContent, label.getBoundingClientRect()]);
        const outside = boxes.filter(([, box]) => box.left < ends.left - 1 || box.right > ends.right + 1);
        const over = boxes.flatMap(([one, a], i) => boxes.slice(i + 1)
            .filter(([, b]) => a.left < b.right && b.left < a.right && a.top < b.bottom - 3 && b.top < a.bottom - 3)
            .map(([other]) => `${one} over ${other}`));
        return [...outside.map(([text]) => `${text} is cut off`), ...over];
    });";

/// Ticks of histograms in a wrong place: the number of bars left of a tick must equal the number of edges up to its value.
const MISPLACED: &str = "
    const { computations } = JSON.parse(document.getElementById('data').textContent);
    return [...document.querySelectorAll('.computation')].flatMap(article => {
        const { edges_ms } = computations.find(one => one.name === article.dataset.name).histogram;
        const ends = [...article.querySelectorAll('.bar')].map(bar => bar.x.baseVal.value + bar.width.baseVal.value);
        const ticks = [...article.querySelectorAll('line[data-value]')];
        const isRight = tick => {
            const below = edges_ms.slice(1).filter(edge => edge <= tick.dataset.value * 1.005).length;
            return ends.filter(end => end <= tick.x1.baseVal.value + 0.5).length === below;
        };
        const wrong = ticks.filter(tick => !isRight(tick)).map(tick => `${article.dataset.name}: ${tick.dataset.value}`);
        return ticks.length < 2 ? [`${article.dataset.name} has ${ticks.length} ticks`] : wrong;
    });";

const NONE: Value = Value::Array(Vec::new());

#[test]
fn nothing_is_clipped_or_overlaps_at_any_width() {
    let Some(browser) = Browser::start("nothing_is_clipped_or_overlaps_at_any_width") else {
        return;
    };
    for Page { name, report, address } in pages() {
        for (width, scheme) in [(1280, "light"), (800, "dark")] {
            browser.resize(Some(width));
            browser.prefer(scheme);
            browser.open(address);
            let about = format!("{name}, {width} px, {scheme}");
            assert_eq!(browser.run(CLIPPED), NONE, "{about}");
            browser.picture(&picture(&format!("gallery/{name}-{width}-{scheme}.png")));
            // Folded content must fit as well.
            browser.run("document.querySelectorAll('details').forEach(details => { details.open = true; });");
            let histograms = report.computations.iter().filter(|computation| computation.count > 0).count();
            browser.eventually("the folded content", |browser| {
                let is_drawn = browser.texts(".computation svg").len() == histograms
                    && !browser.texts("#processes tbody tr").is_empty();
                is_drawn.then_some(())
            });
            assert_eq!(browser.run(CLIPPED), NONE, "{about}, unfolded");
            assert_eq!(browser.run(OVERLAPS), NONE, "{about}");
            assert_eq!(browser.run(MISPLACED), NONE, "{about}");
            assert_eq!(browser.texts(".histogram .median").len(), histograms, "{about}");
            assert_eq!(browser.barriers(), Vec::<String>::new(), "{about}");
        }
        assert_eq!(browser.messages(), NONE, "{name}");
    }
}

#[test]
fn the_headline_and_its_colour_show_the_state_of_the_job() {
    let Some(browser) = Browser::start("the_headline_and_its_colour_show_the_state_of_the_job") else {
        return;
    };
    let colour = |browser: &Browser| {
        browser.run("return getComputedStyle(document.getElementById('state')).color;").to_string()
    };
    let mut shown = std::collections::BTreeMap::new();
    for Page { name, address, .. } in pages() {
        browser.open(address);
        shown.insert(name.as_str(), (browser.text("#state"), browser.text("#headline"), colour(&browser)));
    }
    let of = |name: &str| shown.get(name).unwrap_or_else(|| panic!("no {name}"));
    let starts = |name: &str, state: &str, headline: &str| {
        let (shown_state, shown_headline, _) = of(name);
        assert!(shown_state == state && shown_headline.starts_with(headline), "{name}: {:?}", of(name));
    };
    starts("4-waiting", "Waiting", "Waiting for rows");
    starts("4-running", "Running", "39 % · done about ");
    starts("4-stalled", "Stalled", "33 % · nothing written for ");
    starts("4-failed", "Failed", "Failed at 33 %");
    starts("4-done", "Done", "27,600 rows in 9 min 20 s · ");
    starts("4-rejects", "Done with rejects", "27,600 rows in 9 min 20 s · 13,800 rejected");
    starts("112-rejecting", "Running with rejects", "39 % · ");
    // Only a job in which every row has a result is green.
    assert_eq!(of("4-done").2, of("112-running").2);
    for name in ["4-rejects", "112-rejects", "4-rejecting", "4-stalled", "4-failed", "4-waiting"] {
        assert_ne!(of(name).2, of("4-done").2, "{name}");
    }
}

#[test]
fn a_filter_finds_a_worker_among_many() {
    let Some(browser) = Browser::start("a_filter_finds_a_worker_among_many") else {
        return;
    };
    browser.open(&page("4-running").address);
    assert_eq!(browser.run("return document.getElementById('workers-filter').hidden;"), true);
    browser.open(&page("112-running").address);
    let workers = |browser: &Browser| browser.texts("#workers tbody th");
    assert_eq!(workers(&browser).len(), 10);
    // The slow worker comes first, with the reason in its row.
    assert_eq!(workers(&browser)[0], "worker 39");
    let third = browser.text("#workers tbody tr:first-child td:nth-child(3)");
    assert!(third.ends_with("rows/s; the median is 1000"), "{third}");
    browser.write("#filter", "worker 111");
    browser.eventually("one worker", |browser| (workers(browser) == ["worker 111"]).then_some(()));
}

/// Four workers write 400 rows every eight seconds, and report every second.
#[test]
fn equal_batches_draw_a_level_line() {
    let Some(browser) = Browser::start("equal_batches_draw_a_level_line") else { return };
    browser.open(&page("4-waiting").address);
    let points: Vec<_> = (0..100)
        .map(|second| json!({ "seconds": second, "rows_in": 9000, "rows_out": second / 8 * 400 }))
        .collect();
    let rates = browser.run(&format!("return smoothRates({}, 'rows_out', 16);", json!(points)));
    let rates = rates.as_array().unwrap();
    assert!(rates.len() > 50, "{rates:?}");
    for pair in rates {
        let rate = pair[1].as_f64().unwrap();
        assert!((rate - 50.0).abs() < 0.01, "{pair} of {rates:?}");
    }
    // If nothing is written for much longer than a batch takes, the line drops to zero.
    let stopped = points
        .iter()
        .cloned()
        .chain((100..150).map(|second| json!({ "seconds": second, "rows_in": 9000, "rows_out": 4800 })));
    let rates = browser
        .run(&format!("return smoothRates({}, 'rows_out', 16);", Value::from(stopped.collect::<Vec<_>>())));
    assert_eq!(rates.as_array().unwrap().last().unwrap()[1], 0.0, "{rates}");
}
