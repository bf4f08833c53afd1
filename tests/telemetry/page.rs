//! The status page in a real browser.

use std::path::PathBuf;

use super::{config, streaming};
use crate::support::browser::Browser;
use crate::support::{SOON, Scene, Web, eventually, folder};

/// Where pictures are kept to be looked at: of the whole run, unless somebody wants them.
fn pictures() -> PathBuf {
    std::env::var_os("PGSLUICE_TEST_PICTURES").map_or_else(|| folder("pictures"), PathBuf::from)
}

/// No part is wider than the window, whatever is in it.
const OVERFLOW: &str = "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
/// The contrast of every text with what is behind it, as WCAG counts it: the least, and where.
const CONTRAST: &str = r"
    const channels = text => text.match(/[\d.]+/g).map(Number);
    const light = rgb => { const [r, g, b] = rgb.map(v => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    const ground = it => { for (; it; it = it.parentElement) { const c = channels(getComputedStyle(it).backgroundColor); if (c.length < 4 || c[3] > 0) return c.slice(0, 3); } return [255, 255, 255]; };
    let worst = [99, ''];
    for (const it of document.querySelectorAll('body *')) {
        const own = [...it.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
        if (!own || it.closest('script,style,[hidden]') || it.matches('.skip,:disabled')) continue;
        const [a, b] = [light(channels(getComputedStyle(it).color).slice(0, 3)), light(ground(it))].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        if (ratio < worst[0]) worst = [ratio, it.outerHTML.slice(0, 120)];
    }
    return worst";
/// What has no name for who does not see it.
const NAMELESS: &str = "
    const bad = [];
    for (const it of document.querySelectorAll('button,input,svg,section,table')) {
        const named = it.getAttribute('aria-label') || it.getAttribute('aria-labelledby') || it.closest('label') || it.closest('[aria-labelledby]') || it.textContent.trim();
        if (!named) bad.push(it.outerHTML.slice(0, 80));
    }
    for (const [what, n] of [['main', 1], ['h1', 1], ['html[lang]', 1], ['meta[name=viewport]', 1]]) if (document.querySelectorAll(what).length !== n) bad.push(what);
    if ([...document.querySelectorAll('body > header')].length !== 1) bad.push('banner');
    return bad";

#[tokio::test]
async fn the_page_shows_what_happens_and_pauses_and_resumes() {
    let scene = Scene::new().await;
    let config = config(&scene, "", "lanes = 2\nunroutable.policy = \"park\"\n");
    let process = streaming(&config.replace("[checkpoint]", "exchange = \"nowhere\"\n[checkpoint]")).await;
    let web = Web::of(&process).await;
    web.becomes(&[]).await;
    let insert = |from: u32| {
        format!(
            "INSERT INTO orders SELECT g, 'a secret of ann', g, 'new' FROM generate_series({from}, {}) g",
            from + 999
        )
    };
    let browser = Browser::open(1280, 900, "light").await;
    browser.go(&format!("http://{}/", web.address)).await;
    browser.shows("#state", "flowing").await;
    assert_eq!(browser.run("return document.title").await, "shop: flowing · pgsluice");
    for from in 0..3 {
        scene.database.execute(&insert(from * 1000)).await;
    }
    scene.database.execute("INSERT INTO outbox (aggregatetype, aggregateid, type) VALUES ('order', '7', 'Paid')").await;
    browser.shows("#tables", "public.orders").await;
    browser.shows("#tables", "3,000").await;
    browser.shows("#last", "shop.changes").await;
    browser.shows("#events", "Parked\n1").await;
    browser.shows("#lanes", "flowing").await;
    browser.shows("#source", "streaming").await;
    browser.shows("#slot", "reserved").await;
    browser.shows("#check-state", "findings").await;
    eventually("both plots have lines", SOON, async || {
        let lines = browser
            .run("return ['throughput', 'lags'].map(id => document.querySelectorAll('#' + id + ' polyline').length)")
            .await;
        (lines == serde_json::json!([1, 1])).then_some(())
    })
    .await;
    let label = browser.run("return document.getElementById('throughput').getAttribute('aria-label')").await;
    assert!(label.as_str().is_some_and(|label| label.contains("events/s")), "{label}");
    let all = browser.run("return document.documentElement.outerHTML").await;
    assert!(!all.as_str().expect("text").contains("a secret of ann"), "values of rows are not shown");
    assert!(!web.get("/status").await.body.contains("a secret of ann"));

    // By the mouse, then by the keyboard.
    browser.click("#pause").await;
    browser.shows("#state", "paused").await;
    browser.shows("#reasons", "asked to pause").await;
    assert_eq!(web.reasons().await, ["paused"]);
    browser.screenshot(&pictures().join("paused.png")).await;
    browser.run("document.getElementById('resume').focus()").await;
    browser.type_at("#resume", "\u{E007}").await;
    browser.shows("#state", "flowing").await;
    web.becomes(&[]).await;
    assert_eq!(browser.errors().await, Vec::<String>::new());

    for (width, height, scheme, name) in [
        (1280, 1500, "light", "light"),
        (1280, 1500, "dark", "dark"),
        (360, 2600, "dark", "phone"),
        (360, 800, "light", "phone-top"),
    ] {
        let browser = Browser::open(width, height, scheme).await;
        browser.go(&format!("http://{}/", web.address)).await;
        browser.shows("#state", "flowing").await;
        browser.shows("#tables", "public.orders").await;
        let asked = browser.run("return [innerWidth, matchMedia('(prefers-color-scheme: dark)').matches]").await;
        assert_eq!(asked, serde_json::json!([width, scheme == "dark"]));
        assert_eq!(browser.run(OVERFLOW).await, 0, "{name}: nothing is wider than the window");
        let worst = browser.run(CONTRAST).await;
        assert!(worst[0].as_f64().is_some_and(|ratio| ratio >= 4.5), "{name}: {worst}");
        assert_eq!(browser.run(NAMELESS).await, serde_json::json!([]), "{name}");
        browser.screenshot(&pictures().join(format!("{name}.png"))).await;
    }
    drop(process);
    browser.shows("#state", "no answer").await;
}

#[tokio::test]
async fn the_page_asks_for_the_token() {
    let token = "0123456789abcdef";
    let scene = Scene::new().await;
    let process = streaming(&config(&scene, &format!("token = \"{token}\"\n"), "")).await;
    let web = Web::of(&process).await;
    let browser = Browser::open(360, 800, "light").await;
    browser.go(&format!("http://{}/", web.address)).await;
    browser.shows("#state", "locked").await;
    browser.type_at("#token", "0123\u{E007}").await;
    browser.shows("#notice", "another one").await;
    browser.screenshot(&pictures().join("locked.png")).await;
    browser.type_at("#token", &format!("{token}\u{E007}")).await;
    browser.shows("#state", "flowing").await;
    browser.click("#pause").await;
    browser.shows("#state", "paused").await;
    assert_eq!(
        browser.run("return location.href").await,
        format!("http://{}/", web.address),
        "no token in the address"
    );
}
