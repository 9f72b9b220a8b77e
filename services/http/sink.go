package http

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"strconv"
)

// serveSink reads the whole body, through one pooled buffer, and answers with its
// length and SHA-256: what a client compares with what it believes it sent. Bytes
// count as they come off the transfer coding; a Content-Encoding is not undone.
// The first read sends 100-continue to a client that waits for it.
func (s *site) serveSink(w *response, r *http.Request) {
	sum := sha256.New()
	buf := copyBufs.Get().(*[copyBuf]byte)
	defer copyBufs.Put(buf)
	n, err := io.CopyBuffer(sum, struct{ io.Reader }{r.Body}, buf[:])
	if err != nil {
		w.fail(http.StatusBadRequest, "the body ended early")
		return
	}
	answer := `{"bytes":` + strconv.FormatInt(n, 10) + `,"sha256":"` + hex.EncodeToString(sum.Sum(nil)) + `"}` + "\n"
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(answer)))
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	io.WriteString(w, answer)
}
