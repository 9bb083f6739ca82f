//! The page's files, which are part of the program.

/// The page.
pub const HTML: &str = include_str!("../../page/index.html");
/// How it looks.
pub const STYLE: &str = include_str!("../../page/style.css");
/// What it does, in the order in which it is read.
pub const SCRIPTS: [(&str, &str); 6] = [
    ("/format.js", include_str!("../../page/format.js")),
    ("/rates.js", include_str!("../../page/rates.js")),
    ("/charts.js", include_str!("../../page/charts.js")),
    ("/tables.js", include_str!("../../page/tables.js")),
    ("/verdict.js", include_str!("../../page/verdict.js")),
    ("/app.js", include_str!("../../page/app.js")),
];
/// What one sees who has not shown the token.
pub const LOGIN: &str = include_str!("../../page/login.html");

const STYLE_LINK: &str = r#"<link rel="stylesheet" href="/style.css">"#;

/// The page in one file, with the data that it shows, for a browser without a hub.
pub fn with_data(json: &str) -> String {
    // In a script, this begins whatever ends it, or makes its end none.
    let json = json.replace('<', "\\u003c");
    let data = format!(r#"<script type="application/json" id="data">{json}</script>"#);
    let page = HTML
        .replace(STYLE_LINK, &format!("<style>\n{STYLE}</style>"))
        .replace("</body>", &format!("{data}\n</body>"));
    SCRIPTS.iter().fold(page, |page, (name, script)| {
        // Behind the page, which it looks into; a script of its own file waits for that.
        page.replace(&format!("<script src=\"{name}\" defer></script>\n"), "")
            .replace("</body>", &format!("<script>\n{script}</script>\n</body>"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_with_data_needs_no_other_file() {
        let page = with_data(r#"{"text":"</script><b>"}"#);
        assert!(!page.contains("<link rel=\"stylesheet\"") && !page.contains("<script src"), "{page}");
        assert!(page.contains(r#"{"text":"\u003c/script>\u003cb>"}"#), "{page}");
    }
}
