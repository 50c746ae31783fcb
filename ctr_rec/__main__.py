"""`python -m ctr_rec`, which is also how torchrun starts a worker."""

from ctr_rec.cli import main

if __name__ == "__main__":
    main()
