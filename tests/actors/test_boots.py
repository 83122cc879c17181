"""Whether the machine has booted since a broker's last life: said until it is settled, never forgotten too early."""

from callboard.actors.boots import SETTLED_MS, BootNote
from callboard.testing.context import sim_context
from callboard.testing.disk import SimDisk
from callboard.testing.loop import SimLoop

PATH = "/data/broker-1.boot"


class Machine:
    """A machine with one disk: lives of a broker on it, and boots."""

    def __init__(self):
        self.loop, self.disk, self.boot, self.lives = SimLoop(0), SimDisk(), "boot 1", 0
        self.disk.make_dir("/data")

    def life(self):
        """Whether a new life of the broker finds that the machine has booted; it lives on."""
        self.lives += 1
        context = sim_context(0, f"life {self.lives}", loop=self.loop, files=self.disk, boot=self.boot)
        note = BootNote(context, PATH)
        found = note.is_after_reboot()
        self.loop.advance(10)  # the pool writes
        assert note.is_after_reboot() is found, "one life says one thing"
        return found


def test_a_new_directory_misses_nothing():
    assert Machine().life() is False


def test_a_restart_in_the_same_boot_is_no_reboot():
    machine = Machine()
    machine.life()

    assert machine.life() is False


def test_another_boot_is():
    machine = Machine()
    machine.life()
    machine.boot = "boot 2"

    assert machine.life() is True


def test_lives_that_end_soon_say_it_again():
    """The controller may not have seen the first of them."""
    machine = Machine()
    machine.life()
    machine.boot = "boot 2"

    assert [machine.life(), machine.life(), machine.life()] == [True, True, True]


def test_once_a_life_has_settled_the_next_of_the_same_boot_is_sure_again():
    machine = Machine()
    machine.life()
    machine.boot = "boot 2"
    machine.life()
    machine.loop.advance(SETTLED_MS + 1)

    assert machine.life() is False


def test_the_first_note_is_there_at_once():
    machine = Machine()
    machine.life()
    machine.boot = "boot 2"
    machine.disk = machine.disk.crash("power")

    assert machine.life() is True


def test_a_system_that_does_not_tell_its_boots_is_never_sure():
    machine = Machine()
    machine.boot = ""

    assert [machine.life(), machine.life()] == [True, True]
