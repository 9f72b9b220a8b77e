package ftp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"porthole/services"
)

// samplePeriod is prime, so that a mistake in an offset by any power of two shows
// as a difference in the bytes.
const samplePeriod = 65521

// samplePattern is one period: the octets of SplitMix64 from seed 0, little endian.
var samplePattern = sync.OnceValue(func() []byte {
	b := make([]byte, 0, samplePeriod+8)
	for x := uint64(0); len(b) < samplePeriod; {
		x += 0x9e3779b97f4a7c15
		z := (x ^ x>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		b = binary.LittleEndian.AppendUint64(b, z^z>>31)
	}
	return b[:samplePeriod]
})

// sample is the endless contents of every .bin file of the built-in tree: byte i
// is samplePattern[i mod samplePeriod].
type sample struct{}

func (sample) ReadAt(b []byte, off int64) (int, error) {
	p := samplePattern()
	for n := 0; n < len(b); {
		n += copy(b[n:], p[(off+int64(n))%samplePeriod:])
	}
	return len(b), nil
}

// fillSample makes the tree that is served where no directory is configured.
func fillSample(m *memFS, host services.Host) error {
	at := host.Started.UTC().Truncate(time.Second)
	for _, dir := range []string{"pub", "pub/text", "pub/names", "big", "incoming"} {
		if err := m.Mkdir(dir); err != nil {
			return err
		}
	}
	text := func(name, s string) error {
		return m.Generate(name, int64(len(s)), strings.NewReader(s), at)
	}
	var lines bytes.Buffer
	for i := range 1000 {
		fmt.Fprintf(&lines, "line %04d of 1000: it ends in LF here and in CR LF on the wire in TYPE A\n", i+1)
	}
	for _, f := range []struct{ name, text string }{
		{"README.txt", readme(host)},
		{"pub/empty", ""},
		{"pub/text/lines.txt", lines.String()},
		{"pub/names/with space.txt", "A name with a space.\n"},
		{"pub/names/größe.txt", "A name in UTF-8 (RFC 2640).\n"},
		{"pub/names/say \"hi\".txt", "A name with quotes, which 257 doubles.\n"},
	} {
		if err := text(f.name, f.text); err != nil {
			return err
		}
	}
	var source io.ReaderAt = sample{}
	for _, f := range []struct {
		name string
		size services.Size
	}{
		{"pub/1KiB.bin", services.KiB}, {"pub/64KiB.bin", 64 * services.KiB},
		{"pub/1MiB.bin", services.MiB}, {"pub/16MiB.bin", 16 * services.MiB},
		{"big/64MiB.bin", 64 * services.MiB}, {"big/256MiB.bin", 256 * services.MiB},
	} {
		if err := m.Generate(f.name, int64(f.size), source, at); err != nil {
			return err
		}
	}
	for _, dir := range []string{".", "pub", "pub/text", "pub/names", "big", "incoming"} {
		if err := m.Chtimes(dir, at); err != nil {
			return err
		}
	}
	return nil
}

func readme(host services.Host) string {
	return fmt.Sprintf(`Welcome to %s, a virtual host that you can see into.

This tree lives in memory and is gone when the host stops.

  pub/       files of exact sizes; the same bytes on every run
  pub/text/  text, to compare TYPE A with TYPE I
  pub/names/ names with spaces, quotes and UTF-8
  big/       64 and 256 MiB that are made while you read them
  incoming/  for uploads, where a user who may write is configured

Try:
  lftp -e 'ls; get pub/1MiB.bin; bye' ftp.%s
  curl -O ftp://ftp.%s/pub/1MiB.bin
`, host.Name, host.Zone, host.Zone)
}
