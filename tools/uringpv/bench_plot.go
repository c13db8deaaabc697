// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"image/color"
	"io"
	"math"
	"os"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Sizes of the drawing: a column for each depth, with at least so many columns'
// room, so that the title has it.
const (
	plotColumn     = 3.2 * vg.Inch
	plotHeight     = 7 * vg.Inch
	plotMinColumns = 3
	plotHead       = 0.8 * vg.Inch
)

// engineColours are told apart by people who confuse red and green too (Okabe and
// Ito's palette).
var engineColours = map[string]color.Color{
	engineNative:      color.RGBA{0x56, 0x56, 0x56, 0xff},
	enginePassthrough: color.RGBA{0x00, 0x72, 0xb2, 0xff},
	engineIsolated:    color.RGBA{0x56, 0xb4, 0xe9, 0xff},
	engineRelay:       color.RGBA{0x00, 0x9e, 0x73, 0xff},
	engineVirtio:      color.RGBA{0xd5, 0x5e, 0x00, 0xff},
}

// writePlot draws the rows: for each depth IOPS as bars, with the ratio to native,
// and below them latencies.
func (r *benchReport) writePlot(path string) (err error) {
	if len(r.rows) == 0 {
		return errors.New("there is nothing to plot")
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return r.drawPlot(f)
}

// drawPlot writes the drawing as SVG.
func (r *benchReport) drawPlot(w io.Writer) error {
	columns, _ := r.columns()
	canvas := vgsvg.New(plotColumn*vg.Length(max(len(columns), plotMinColumns)), plotHeight)
	if err := r.drawOn(draw.New(canvas)); err != nil {
		return err
	}
	_, err := canvas.WriteTo(w)
	return err
}

// columns are the rows side by side in one column, by its heading, and the headings
// in order.
func (r *benchReport) columns() (names []string, rows map[string][]row) {
	rows = map[string][]row{}
	for _, s := range r.rows {
		name := fmt.Sprintf("depth %d", s.Depth)
		if s.Guests > 1 {
			name = fmt.Sprintf("%d guests, depth %d", s.Guests, s.Depth)
		}
		if rows[name] == nil {
			names = append(names, name)
		}
		rows[name] = append(rows[name], s)
	}
	return names, rows
}

func (r *benchReport) drawOn(all draw.Canvas) error {
	columns, rows := r.columns()
	plots := make([][]*plot.Plot, 2)
	for i, name := range columns {
		rate, err := ratePlot(name, rows[name])
		if err != nil {
			return err
		}
		times, err := latencyPlot(rows[name], i == 0)
		if err != nil {
			return err
		}
		plots[0], plots[1] = append(plots[0], rate), append(plots[1], times)
	}
	plots[0][0].Y.Label.Text, plots[1][0].Y.Label.Text = "I/Os per second", "latency in µs"

	all.SetColor(color.White)
	all.Fill(all.Rectangle.Path())
	head := plots[0][0].Title.TextStyle
	head.XAlign, head.YAlign = text.XCenter, text.YTop
	c := &r.common
	head.Font.Size = 14
	all.FillText(head, vg.Point{X: all.Center().X, Y: all.Max.Y - 10}, "uringpv bench: "+r.what)
	head.Font.Size = 10
	all.FillText(head, vg.Point{X: all.Center().X, Y: all.Max.Y - 32}, fmt.Sprintf("%s, Linux %s, %d CPUs; medians of %d rounds of %gs; ×: to native in the same round",
		c.KVM, c.Kernel, c.CPUs, r.rounds, c.RuntimeMS/1000))
	body := draw.Crop(all, 10, -10, 10, -plotHead)
	tiles := draw.Tiles{Rows: 2, Cols: len(columns), PadX: 12, PadY: 16}
	for i, line := range plot.Align(plots, tiles, body) {
		for j, c := range line {
			plots[i][j].Draw(c)
		}
	}
	return nil
}

// engineAxis puts the engines' names below p, one at each whole number.
func engineAxis(p *plot.Plot, rows []row) {
	names := make([]string, len(rows))
	for i, s := range rows {
		names[i] = s.Engine
	}
	p.NominalX(names...)
	p.X.Tick.Label.Rotation = math.Pi / 6
	p.X.Tick.Label.XAlign, p.X.Tick.Label.YAlign = text.XRight, text.YCenter
	p.X.Min, p.X.Max = -0.6, float64(len(rows))-0.4
	p.BackgroundColor = nil // the title is above
}

// ratePlot has a bar for each engine.
func ratePlot(title string, rows []row) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text = title
	p.Add(plotter.NewGrid())
	most := 0.0
	for i, s := range rows {
		bar, err := plotter.NewBarChart(plotter.Values{s.IOPS}, 28)
		if err != nil {
			return nil, err
		}
		bar.XMin, bar.Color, bar.LineStyle.Width = float64(i), engineColours[s.Engine], 0
		label := si(s.IOPS)
		if s.Ratio != nil && s.Engine != engineNative {
			label += fmt.Sprintf("\n%.2f×", *s.Ratio)
		}
		if s.ToOne != nil {
			label += fmt.Sprintf("\n%.2f× one", *s.ToOne)
		}
		words, err := labelAt(float64(i), s.IOPS, label)
		if err != nil {
			return nil, err
		}
		p.Add(bar, words)
		most = max(most, s.IOPS)
	}
	engineAxis(p, rows)
	p.Y.Min, p.Y.Max = 0, 1.25*most
	p.Y.Tick.Marker = siTicks{plot.DefaultTicks{}}
	return p, nil
}

// latencyPlot has three marks for each engine, on a logarithmic axis.
func latencyPlot(rows []row, legend bool) (*plot.Plot, error) {
	p := plot.New()
	p.Add(plotter.NewGrid())
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.TextStyle.Font.Size = 9
	least, most := math.Inf(1), 0.0
	for _, mark := range []struct {
		name  string
		shape draw.GlyphDrawer
		align text.YAlignment // of its number, so that marks close together can be read
		get   func(latency) float64
	}{
		{"99.9 %", draw.TriangleGlyph{}, text.YBottom, func(l latency) float64 { return l.P999 }},
		{"99 %", draw.BoxGlyph{}, text.YCenter, func(l latency) float64 { return l.P99 }},
		{"50 %", draw.CircleGlyph{}, text.YTop, func(l latency) float64 { return l.P50 }},
	} {
		for i, s := range rows {
			v := max(mark.get(s.Latency), 0.001) // a logarithm needs one
			least, most = min(least, v), max(most, v)
			dot, err := plotter.NewScatter(plotter.XYs{{X: float64(i), Y: v}})
			if err != nil {
				return nil, err
			}
			dot.GlyphStyle = draw.GlyphStyle{Color: engineColours[s.Engine], Radius: 4, Shape: mark.shape}
			words, err := labelAt(float64(i), v, "  "+micros(v))
			if err != nil {
				return nil, err
			}
			words.TextStyle[0].XAlign, words.TextStyle[0].YAlign = text.XLeft, mark.align
			p.Add(dot, words)
			if i == 0 && legend {
				p.Legend.Add(mark.name, dot)
			}
		}
	}
	engineAxis(p, rows)
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, siTicks{plot.LogTicks{Prec: -1}}
	p.Y.Min, p.Y.Max = math.Pow(10, math.Floor(math.Log10(least))), math.Pow(10, math.Ceil(math.Log10(most)+0.4))
	return p, nil
}

// labelAt is a text above a point.
func labelAt(x, y float64, s string) (*plotter.Labels, error) {
	l, err := plotter.NewLabels(plotter.XYLabels{XYs: plotter.XYs{{X: x, Y: y}}, Labels: []string{s}})
	if err != nil {
		return nil, err
	}
	l.TextStyle[0].Font.Size = 8
	l.TextStyle[0].XAlign, l.TextStyle[0].YAlign = text.XCenter, text.YBottom
	return l, nil
}

// si writes v with three digits and a power of 1000.
func si(v float64) string {
	for _, unit := range []struct {
		of   float64
		name string
	}{{1e9, " G"}, {1e6, " M"}, {1e3, " k"}} {
		if v >= unit.of {
			return strconv.FormatFloat(v/unit.of, 'g', 3, 64) + unit.name
		}
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// siTicks writes the numbers at another ticker's ticks by si.
type siTicks struct{ plot.Ticker }

func (t siTicks) Ticks(least, most float64) []plot.Tick {
	ticks := t.Ticker.Ticks(least, most)
	for i := range ticks {
		if ticks[i].Label != "" {
			ticks[i].Label = si(ticks[i].Value)
		}
	}
	return ticks
}
