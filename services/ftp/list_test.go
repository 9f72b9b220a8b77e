package ftp

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ftpclient "github.com/jlaffaye/ftp"
	"github.com/stretchr/testify/require"
)

func TestListForms(t *testing.T) {
	r := start(t, nil)
	c := r.writer()
	c.do("MFMT 20020717210715 README.txt", "213")
	for _, cmd := range []string{"LIST README.txt", "LIST -la README.txt", "LIST -a -l -- README.txt", "LIST README.*", "LIST READM[E].tx?"} {
		got := c.get(cmd)
		require.Regexp(t, `^-rw-r--r--   1 ftp      ftp      +\d+ Jul 17  2002 README.txt\r\n$`, got, cmd)
	}
	require.Equal(t, "pub/16MiB.bin\r\npub/1KiB.bin\r\npub/1MiB.bin\r\npub/64KiB.bin\r\n", c.get("NLST pub/*.bin"))
	require.Contains(t, c.get("NLST pub"), "pub/1KiB.bin\r\n")
	require.Contains(t, c.get("NLST /pub/"), "/pub/1KiB.bin\r\n")
	require.Equal(t, "pub/1KiB.bin\r\n", c.get("NLST pub/1KiB.bin"))
	require.Empty(t, c.get("NLST *.nosuch"))
	require.Equal(t, "README.txt\r\nbig\r\nincoming\r\npub\r\n", c.get("NLST"))
	require.Contains(t, c.get("LIST -a"), "drwxr-xr-x   1 ftp      ftp ")
	require.Contains(t, c.get("LIST pub/text"), "lines.txt\r\n")
	c.do("MKD .hidden", "257")
	require.Contains(t, c.get("NLST"), ".hidden\r\n")
	require.NotContains(t, c.get("NLST *"), ".hidden\r\n")
	require.Equal(t, ".hidden\r\n", c.get("NLST .h*"))
	c.do("LIST [", "550")

	c.do("MFMT 20020717210715 incoming", "213")
	c.do("OPTS MLST type;modify;perm;UNIX.mode;", "200")
	require.Contains(t, c.get("MLSD"), "type=dir;modify=20020717210715;perm=cdeflmp;UNIX.mode=0755; incoming\r\n")
	require.Contains(t, c.get("MLSD pub"), ";perm=adfrw;UNIX.mode=0644; 1KiB.bin\r\n")
	c.do("OPTS MLST", "200")
	require.Contains(t, c.get("MLSD /"), " README.txt\r\n")
	require.Contains(t, c.do("MLST README.txt", "250-"), "\n  /README.txt\n", "no facts, one space more")

	reader := r.anonymous()
	require.Contains(t, reader.get("MLSD pub"), ";perm=r;")
}

// The same file has the same unique fact by whatever path (RFC 3659, 7.5.2).
func TestUnique(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a"), nil, 0o644))
	require.NoError(t, os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "b")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "c"), nil, 0o644))
	r := start(t, func(c *Config) { c.Root = dir })
	c := r.anonymous()
	c.do("OPTS MLST unique;", "200")
	ids := map[string]string{}
	for line := range strings.Lines(c.get("MLSD")) {
		id, name, _ := strings.Cut(strings.TrimSpace(line), "; ")
		ids[name] = id
	}
	require.Equal(t, ids["a"], ids["b"])
	require.NotEqual(t, ids["a"], ids["c"])
	require.NotEmpty(t, ids["a"])
}

// Names that would break a line are shown without what breaks it.
func TestNamesThatBreakLines(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a\r\nb"), nil, 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "\xff"), nil, 0o644))
	r := start(t, func(c *Config) { c.Root = dir })
	c := r.writer()
	require.Equal(t, "a??b\r\n\xff\r\n", c.get("NLST"))
	require.Contains(t, c.do("MLST \xff\xff", "250-"), "; /\xff\xff\n", "IAC is doubled on the control connection")
	c.do("DELE \xff\xff", "250")
}

func TestManyEntries(t *testing.T) {
	dir := t.TempDir()
	const n = listSorted + 1000
	for i := range n {
		require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%06d", i)), nil, 0o644))
	}
	r := start(t, func(c *Config) { c.Root = dir })
	c := r.anonymous()
	for _, cmd := range []string{"NLST", "LIST", "MLSD", "NLST file-*"} {
		seen := map[string]bool{}
		for line := range strings.Lines(c.get(cmd)) {
			f := strings.Fields(line)
			seen[f[len(f)-1]] = true
		}
		require.Len(t, seen, n, cmd)
	}
	require.Equal(t, n+2, strings.Count(c.do("STAT /", "212-"), "\n")+1)
	require.Contains(t, c.get("NLST file-00000[0-4]"), "file-000004")
}

// special files neither hold the session nor are moved.
func TestSpecialFiles(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, mkfifo(filepath.Join(dir, "fifo")))
	r := start(t, func(c *Config) { c.Root = dir })
	c := r.writer()
	c.passive()
	c.do("RETR fifo", "550")
	c.do("STOR fifo", "55")
	c.do("APPE fifo", "55")
	c.do("SIZE fifo", "550")
	require.Contains(t, c.get("LIST"), "prw")
}

func TestLibraryClient(t *testing.T) {
	for name, edit := range map[string]func(*testing.T, *Config){
		"memory": func(*testing.T, *Config) {},
		"disk":   func(t *testing.T, c *Config) { c.Root = t.TempDir() },
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, func(c *Config) { edit(t, c) })
			for _, opts := range [][]ftpclient.DialOption{
				{}, {ftpclient.DialWithDisabledEPSV(true)}, {ftpclient.DialWithDisabledMLSD(true)}, {ftpclient.DialWithForceListHidden(true)},
			} {
				c, err := ftpclient.Dial(r.addr.String(), append(opts, ftpclient.DialWithTimeout(patience))...)
				require.NoError(t, err)
				require.NoError(t, c.Login("ann", "secret"))
				cycle(t, c)
				require.NoError(t, c.Quit())
			}
		})
	}
}

func cycle(t *testing.T, c *ftpclient.ServerConn) {
	want := pattern(300000)
	read := func(name string, from uint64) string {
		resp, err := c.RetrFrom(name, from)
		require.NoError(t, err)
		b, err := io.ReadAll(resp)
		require.NoError(t, err)
		require.NoError(t, resp.Close())
		return string(b)
	}
	require.NoError(t, c.MakeDir("w"))
	require.Error(t, c.MakeDir("w"))
	require.NoError(t, c.ChangeDir("w"))
	cwd, err := c.CurrentDir()
	require.NoError(t, err)
	require.Equal(t, "/w", cwd)
	require.NoError(t, c.Stor("f", strings.NewReader(want)))
	require.True(t, want == read("f", 0))
	require.True(t, want[99999:] == read("f", 99999))
	require.NoError(t, c.StorFrom("f", strings.NewReader("tail"), 1000))
	require.Equal(t, want[:1000]+"tail", read("f", 0))
	require.NoError(t, c.Append("f", strings.NewReader("more")))
	size, err := c.FileSize("f")
	require.NoError(t, err)
	require.EqualValues(t, 1008, size)
	at := time.Date(2002, 7, 17, 21, 7, 15, 0, time.UTC)
	require.True(t, c.IsSetTimeSupported())
	require.NoError(t, c.SetTime("f", at))
	got, err := c.GetTime("f")
	require.NoError(t, err)
	require.True(t, at.Equal(got), got)
	require.NoError(t, c.MakeDir("sub"))
	require.NoError(t, c.Stor("sub/größe x", strings.NewReader("x")))
	entries, err := c.List("")
	require.NoError(t, err)
	require.Len(t, entries, 2)
	for _, e := range entries {
		switch e.Name {
		case "f":
			require.Equal(t, ftpclient.EntryTypeFile, e.Type)
			require.EqualValues(t, 1008, e.Size)
			require.True(t, e.Time.Equal(at) || e.Time.Equal(at.Truncate(24*time.Hour)), e.Time)
		case "sub":
			require.Equal(t, ftpclient.EntryTypeFolder, e.Type)
		default:
			t.Fatal(e.Name)
		}
	}
	names, err := c.NameList("sub")
	require.NoError(t, err)
	require.Equal(t, []string{"sub/größe x"}, names)
	require.NoError(t, c.Rename("f", "sub/g"))
	_, err = c.FileSize("f")
	require.Error(t, err)
	require.Equal(t, want[:1000]+"tailmore", read("sub/g", 0))
	require.Error(t, c.RemoveDir("sub"), "not empty")
	require.NoError(t, c.ChangeDirToParent())
	require.NoError(t, c.RemoveDirRecur("w"))
	require.Error(t, c.ChangeDir("w"))
	require.NoError(t, c.NoOp())
}
