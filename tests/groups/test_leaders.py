"""What a broker's picture says of leaders counts for the watchdog only as far as it is sure."""

from callboard.actors.groups.events import GroupPartition
from callboard.actors.groups.leaders import CONFIRMED_MS, NOT_LED, Leaders
from callboard.testing.metadata import image_with, topic_id_of, with_broker, without_broker

ORDERS = GroupPartition("orders", topic_id_of(0), 0)


def leaders_of(image, confirmed_ms=1_000):
    leaders = Leaders()
    leaders.on_image(image)
    leaders.confirm(confirmed_ms)
    return leaders


def test_a_partition_is_led_in_the_epoch_of_its_leader_while_that_lives():
    image = image_with(topics={"orders": [[1]]})
    epoch = image.topic(topic_id_of(0)).partitions[0].leader_epoch

    assert leaders_of(image).leader_epoch_of(ORDERS, 1_000) == epoch
    assert leaders_of(without_broker(image, 1)).leader_epoch_of(ORDERS, 1_000) == NOT_LED


def test_a_broker_that_has_come_back_leads_nothing_before_it_is_elected_again():
    image = with_broker(without_broker(image_with(topics={"orders": [[1]]}), 1), 1, "another life")

    assert leaders_of(image).leader_epoch_of(ORDERS, 1_000) == NOT_LED


def test_what_is_not_in_the_picture_is_not_led():
    leaders = leaders_of(image_with(topics={"orders": [[1]]}))

    assert leaders.leader_epoch_of(ORDERS._replace(partition=1), 1_000) == NOT_LED
    assert leaders.leader_epoch_of(ORDERS._replace(topic_id="of before"), 1_000) == NOT_LED


def test_a_picture_that_the_store_has_not_confirmed_lately_says_nothing():
    leaders = leaders_of(image_with(topics={"orders": [[1]]}))

    assert leaders.leader_epoch_of(ORDERS, 1_000 + CONFIRMED_MS) >= 0
    assert leaders.leader_epoch_of(ORDERS, 1_001 + CONFIRMED_MS) == NOT_LED
    assert Leaders().leader_epoch_of(ORDERS, 0) == NOT_LED
