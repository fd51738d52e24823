"""One suite that every driver passes against its real runtime."""
