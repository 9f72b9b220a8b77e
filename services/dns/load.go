package dns

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"

	mdns "github.com/miekg/dns"
)

// Bounds of one zone file, $INCLUDE and $GENERATE counted in.
const (
	maxZoneBytes   = 64 << 20
	maxZoneRecords = 1 << 20
)

// load reads the zone. $INCLUDE is confined to the file's own directory (an
// os.Root: no "..", no symbolic link out of it). Records that $GENERATE makes have
// a TTL of 3600 unless its line gives one: the parser does not hand $TTL down.
func (f ZoneFile) load() (*zone, error) {
	dir, err := os.OpenRoot(filepath.Dir(f.File))
	if err != nil {
		return nil, fmt.Errorf("open zone file: %w", err)
	}
	defer dir.Close()
	file, err := dir.Open(filepath.Base(f.File))
	if err != nil {
		return nil, fmt.Errorf("open zone file: %w", err)
	}
	defer file.Close()
	if st, err := file.Stat(); err != nil {
		return nil, fmt.Errorf("open zone file: %w", err)
	} else if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: is no regular file", f.File)
	}

	in := &capped{r: file, left: maxZoneBytes}
	zp := mdns.NewZoneParser(&joined{r: in}, mdns.Fqdn(f.Name), filepath.Base(f.File))
	zp.SetIncludeFS(joinedFS{dir.FS()})
	zp.SetIncludeAllowed(true)
	z, err := readZone(zp, f.Name)
	if err != nil {
		return nil, parseError(f.File, err)
	}
	return z, nil
}

// noTTL marks records whose TTL the file leaves out before any $TTL. As a TTL it
// would be none (RFC 2181, section 8), and nobody writes this one.
const noTTL = 1<<31 + 0x6e6f6e65

// readZone takes the records from a parser and builds the zone.
func readZone(zp *mdns.ZoneParser, origin string) (*zone, error) {
	zp.SetDefaultTTL(noTTL)
	var rrs []mdns.RR
	for r, ok := zp.Next(); ok; r, ok = zp.Next() {
		if len(rrs) == maxZoneRecords {
			return nil, fmt.Errorf("has more than %d records", maxZoneRecords)
		}
		rrs = append(rrs, r)
	}
	if err := zp.Err(); err != nil {
		return nil, err
	}
	setTTLs(rrs)
	return newZone(origin, rrs)
}

// setTTLs gives records without a TTL the last one stated (RFC 1035, section 5.1), or
// the SOA's MINIMUM, which was for that once.
func setTTLs(rrs []mdns.RR) {
	var last uint32
	for _, r := range rrs {
		if soa, ok := r.(*mdns.SOA); ok {
			last = soa.Minttl
			break
		}
	}
	for _, r := range rrs {
		if h := r.Header(); h.Ttl == noTTL {
			h.Ttl = last
		} else {
			last = h.Ttl
		}
	}
}

var atLine = regexp.MustCompile(`^(?:(.*?): )?dns: (.*) at line: (\d+):(\d+)$`)

// parseError puts file, line and column first, as editors expect them.
func parseError(path string, err error) error {
	var pe *mdns.ParseError
	if !errors.As(err, &pe) {
		return fmt.Errorf("%s: %w", path, err)
	}
	m := atLine.FindStringSubmatch(err.Error())
	if m == nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if m[1] != "" && m[1] != filepath.Base(path) { // an included file
		path = filepath.Join(filepath.Dir(path), m[1])
	}
	return fmt.Errorf("%s:%s:%s: %s", path, m[3], m[4], m[2])
}

// capped fails after so many bytes, where io.LimitReader would end the file.
type capped struct {
	r    io.Reader
	left int64
}

func (c *capped) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, fmt.Errorf("is longer than %d bytes", maxZoneBytes)
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}
