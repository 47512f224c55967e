// Draws the site's pictures in a browser: diagrams, smaller pictures, and the one that links show.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { chromium } from "playwright-core";

// Mermaid mixes its colours from those that it is given, and knows no variables of CSS. It gets
// colours that occur nowhere else, which then become the variables of style.css.
const colours = { ink: "#111213", paper: "#fdfcfb", desk: "#e1e2e3", line: "#616263", soft: "#414243" };
const { ink, paper, desk, line, soft } = colours;
const themeVariables = {
	fontFamily: "system-ui, sans-serif", fontSize: "15px", textColor: ink, titleColor: ink, lineColor: soft, background: paper,
	primaryColor: desk, primaryTextColor: ink, primaryBorderColor: line, secondaryColor: desk, tertiaryColor: paper, mainBkg: desk,
	clusterBkg: paper, clusterBorder: line, edgeLabelBackground: paper, actorBkg: desk, actorBorder: line, actorTextColor: ink,
	actorLineColor: line, signalColor: soft, signalTextColor: ink, labelBoxBkgColor: desk, labelBoxBorderColor: line,
	labelTextColor: ink, loopTextColor: ink, noteBkgColor: desk, noteTextColor: ink, noteBorderColor: line,
};

// diagram runs in the browser, and returns a source of Mermaid as SVG, with a name of its own.
async function diagram([source, name, themeVariables]) {
	const lanes = source.match(/^\s*participant/gm)?.length || 0;
	mermaid.initialize({
		startOnLoad: false, theme: "base", themeVariables, flowchart: { htmlLabels: false },
		sequence: {
			mirrorActors: false, wrap: true, height: 40, width: 110, messageMargin: 26, diagramMarginX: 4, diagramMarginY: 4,
			actorMargin: lanes > 3 ? 24 : 110, // as wide as prose, in both cases
		},
	});
	const { svg } = await mermaid.render(name, source), width = Math.ceil(/viewBox="\S+ \S+ (\S+)/.exec(svg)[1]);
	return svg.replace(/-?\d+\.\d{5,}(?![\d.])/g, number => String(Math.round(number * 10) / 10)) // of 14 digits
		.replace(/ role="[^"]*"/, " role=img aria-label=diagram")
		.replace(/ style="max-width[^"]*"/, ` style="max-width:${width}px;min-width:min(${width}px,30rem)"`);
}

// smaller runs in the browser, and returns a PNG as WebP of the width of the prose, both in base64.
async function smaller(png) {
	const image = await createImageBitmap(await (await fetch("data:image/png;base64," + png)).blob());
	const width = Math.min(image.width, 760), height = Math.round(image.height * width / image.width);
	const canvas = Object.assign(document.createElement("canvas"), { width, height }), brush = canvas.getContext("2d");
	brush.imageSmoothingQuality = "high";
	brush.drawImage(image, 0, 0, width, height);
	return canvas.toDataURL("image/webp", 0.45).split(",")[1];
}

// draw returns the diagrams as SVG, and writes the pictures and card.png.
export async function draw(diagrams, pictures, card, write) {
	const browser = await chromium.launch({
		executablePath: process.env.CHROMIUM || "/usr/bin/chromium", args: ["--no-sandbox", "--disable-gpu"],
	});
	try {
		const page = await browser.newPage({ viewport: { width: 1200, height: 630 } });
		await page.addScriptTag({ path: join(import.meta.dirname, "node_modules/mermaid/dist/mermaid.min.js") });
		const svgs = [];
		for (const source of diagrams) {
			const svg = await page.evaluate(diagram, [source, "d" + svgs.length, themeVariables]);
			svgs.push(Object.entries(colours).reduce((svg, [name, colour]) => svg.replaceAll(colour, `var(--${name})`), svg));
		}
		for (const [path, file] of Object.entries(pictures)) {
			write(path, Buffer.from(await page.evaluate(smaller, readFileSync(file).toString("base64")), "base64"));
		}
		await page.setContent(card);
		write("card.png", await page.screenshot());
		return svgs;
	} finally {
		await browser.close();
	}
}
