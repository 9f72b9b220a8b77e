package ftp

import "syscall"

// sendUrgent sends text as urgent data.
func sendUrgent(raw syscall.RawConn, text string) error {
	var err error
	if e := raw.Write(func(fd uintptr) bool {
		err = syscall.Sendto(int(fd), []byte(text), syscall.MSG_OOB, nil)
		return true
	}); e != nil {
		return e
	}
	return err
}
