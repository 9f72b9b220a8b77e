//go:build unix

package ftp

import (
	"fmt"
	"io/fs"
	"syscall"
)

// unique identifies the file behind info in its file system (RFC 3659, 7.5.2).
func unique(info fs.FileInfo) string {
	switch sys := info.Sys().(type) {
	case memInfo:
		return fmt.Sprintf("m%x", sys.id)
	case *syscall.Stat_t:
		return fmt.Sprintf("%xg%x", uint64(sys.Dev), uint64(sys.Ino))
	}
	return ""
}
