package browsertest

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"image"
	"image/color"
	"image/png"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

var (
	screenshots = flag.String("screenshots", "", "directory to write screenshots of a busy pool to")
	watchFor    = flag.Duration("watch", 65*time.Second, "how long the page is open before they are taken")
)

// TestScreenshots takes the pictures of docs/images.
func TestScreenshots(t *testing.T) {
	if *screenshots == "" {
		t.Skip("no -screenshots DIR given")
	}
	d := newDashboard(t)
	busy(t, d)
	tb := open(t, d, viewport(1280, 1000))
	tb.live()
	time.Sleep(*watchFor) // the curves have to grow

	for _, device := range []struct {
		name            string
		width, height   int64
		mostHigh, scale float64
	}{{"desktop", 1280, 1000, 1400, 1}, {"phone", 390, 844, 1700, 1.5}} {
		for _, colors := range []string{"light", "dark"} {
			tb.do(viewport(device.width, device.height), scheme(colors))
			tb.live()
			high := min(eval[float64](tb, "scrollTo(0, 0), document.documentElement.scrollHeight"), device.mostHigh)
			tb.do(viewport(device.width, int64(high)))
			tb.live()
			tb.until(`[...document.querySelectorAll(".queue tbody tr")].every(row => +row.querySelector(".n").textContent > 0)`) // on a crest
			var shot []byte
			tb.do(chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
				got, err := cdp.Call(ctx, target, page.CaptureScreenshot, page.CaptureScreenshotParams{
					Clip: &page.Viewport{Width: float64(device.width), Height: high, Scale: device.scale},
				})
				shot = got.Data
				return err
			}))
			shot = fewColors(t, shot)
			name := filepath.Join(*screenshots, "dashboard-"+device.name+"-"+colors+".png")
			require.NoError(t, os.WriteFile(name, shot, 0o644))
			require.Less(t, len(shot), 200_000)
			t.Logf("%s: %d bytes", name, len(shot))
		}
	}
}

// fewColors makes a picture half as large, which costs it next to nothing: text on a
// plain ground has few colors but where letters are smoothed.
func fewColors(t *testing.T, in []byte) []byte {
	img, err := png.Decode(bytes.NewReader(in))
	require.NoError(t, err)
	count := make(map[color.RGBA]int)
	b := img.Bounds()
	for y := range b.Dy() {
		for x := range b.Dx() {
			count[color.RGBAModel.Convert(img.At(x, y)).(color.RGBA)]++
		}
	}
	most := slices.SortedFunc(maps.Keys(count), func(a, b color.RGBA) int { return cmp.Compare(count[b], count[a]) })
	var palette color.Palette
	for _, c := range most[:min(len(most), 256)] {
		palette = append(palette, c)
	}
	index := make(map[color.RGBA]uint8, len(most))
	for _, c := range most {
		index[c] = uint8(palette.Index(c))
	}
	out := image.NewPaletted(b, palette)
	for y := range b.Dy() {
		for x := range b.Dx() {
			out.SetColorIndex(x, y, index[color.RGBAModel.Convert(img.At(x, y)).(color.RGBA)])
		}
	}
	var w bytes.Buffer
	require.NoError(t, (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&w, out))
	return w.Bytes()
}
