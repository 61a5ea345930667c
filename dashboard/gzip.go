package dashboard

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/binary"
	"hash/crc32"
	"net/http"
	"strings"
)

// acceptsGzip reports whether the client says so.
func acceptsGzip(r *http.Request) bool {
	for coding := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, q, _ := strings.Cut(coding, ";")
		if strings.TrimSpace(name) == "gzip" {
			q = strings.TrimPrefix(strings.TrimSpace(q), "q=")
			return q == "" || strings.Trim(q, "0.") != ""
		}
	}
	return false
}

// send writes a body, compressed if the client accepts that.
func send(w http.ResponseWriter, r *http.Request, body []byte) {
	w.Header().Set("Vary", "Accept-Encoding")
	if !acceptsGzip(r) {
		_, _ = w.Write(body)
		return
	}
	w.Header().Set("Content-Encoding", "gzip")
	z := gzip.NewWriter(w)
	_, _ = z.Write(body)
	_ = z.Close()
}

// A packer compresses messages, each once for all clients: a message is blocks that refer to
// nothing before it, so that it can be part of any client's stream.
type packer struct {
	flate *flate.Writer
	out   bytes.Buffer
}

func (p *packer) pack(message []byte) []byte {
	p.out.Reset()
	if p.flate == nil {
		p.flate, _ = flate.NewWriter(&p.out, flate.BestSpeed) // which is a level
	} else {
		p.flate.Reset(&p.out)
	}
	_, _ = p.flate.Write(message)
	_ = p.flate.Flush()
	return bytes.Clone(p.out.Bytes())
}

// gzipHeader is what a gzip stream begins with (RFC 1952): no name, no time, any system.
var gzipHeader = []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff}

// A gzipEnd is what one stream ends with.
type gzipEnd struct {
	crc  uint32
	size uint32
}

func (e *gzipEnd) add(message []byte) {
	e.crc = crc32.Update(e.crc, crc32.IEEETable, message)
	e.size += uint32(len(message))
}

// bytes returns the last block, which is empty, and the trailer.
func (e *gzipEnd) bytes() []byte {
	b := binary.LittleEndian.AppendUint32([]byte{3, 0}, e.crc)
	return binary.LittleEndian.AppendUint32(b, e.size)
}
