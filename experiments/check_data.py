"""What is wrong with the data of a config, and its cure: python -m experiments.check_data --config configs/unet_folder.py"""

from experiments import launch

# isort: split
from common.errors import InputError
from experiments.arguments import parse_with_config, parser
from experiments.tasks import make_task


def main(argv: list[str]) -> int:
    arguments = parser("experiments.check_data", "Reads the data of a config and says what is wrong with it.")
    _, config = parse_with_config(arguments, argv)
    findings = make_task(config).check()
    for line in findings:
        print(line)
    if findings:
        raise InputError(f"{len(findings)} finding{'s' * (len(findings) > 1)} in the data")
    print("nothing wrong found")
    return 0


if __name__ == "__main__":
    launch.run(main)
