"""`python -m edgedeploy`, which `torchrun -m` needs."""

from edgedeploy.cli.app import main

if __name__ == "__main__":
    main()
