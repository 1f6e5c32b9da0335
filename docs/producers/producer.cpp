// Publishes one delete command with rabbitmq-c: g++ producer.cpp -lrabbitmq -o producer; AMQP_URL=... ./producer ORG TASK [EXCHANGE [KEY]]
// If this fails, publish again with the same message id.
#if __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#include <rabbitmq-c/tcp_socket.h>
#else
#include <amqp.h>
#include <amqp_tcp_socket.h>
#endif
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <random>
#include <stdexcept>
#include <string>

static void check(bool holds, const char *what) {
  if (!holds) throw std::runtime_error(what);
}

static std::string uuid() {
  std::random_device random;
  unsigned n[4];
  for (auto &part : n) part = random();
  char text[37];
  std::snprintf(text, sizeof text, "%08x-%04x-4%03x-%04x-%04x%08x", n[0], n[1] >> 16, n[1] & 0xfff,
                (n[2] >> 16 & 0x3fff) | 0x8000, n[2] & 0xffff, n[3]);
  return text;
}

static std::string publish(const std::string &org, const std::string &task, const char *exchange, const char *key) {
  std::string url = std::getenv("AMQP_URL") ? std::getenv("AMQP_URL") : "amqp://guest:guest@127.0.0.1/%2f";
  amqp_connection_info info;
  check(amqp_parse_url(url.data(), &info) == AMQP_STATUS_OK, "AMQP_URL is no URL");
  amqp_connection_state_t connection = amqp_new_connection();
  amqp_socket_t *socket = amqp_tcp_socket_new(connection);
  check(socket && amqp_socket_open(socket, info.host, info.port) == AMQP_STATUS_OK, "cannot connect");
  auto login = amqp_login(connection, info.vhost, 0, 131072, 10, AMQP_SASL_METHOD_PLAIN, info.user, info.password);
  check(login.reply_type == AMQP_RESPONSE_NORMAL, "cannot log in");
  check(amqp_channel_open(connection, 1) && amqp_confirm_select(connection, 1), "no confirms");

  const std::string id = uuid();
  // Ids have no character that JSON must escape.
  const std::string body = R"({"org_id":")" + org + R"(","task_id":")" + task + R"(","requested_by":"example"})";
  amqp_basic_properties_t properties{};
  properties._flags = AMQP_BASIC_MESSAGE_ID_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_CONTENT_TYPE_FLAG;
  properties.message_id = amqp_cstring_bytes(id.c_str());
  properties.delivery_mode = 2;
  properties.content_type = amqp_cstring_bytes("application/json");
  const bool mandatory = true;
  check(amqp_basic_publish(connection, 1, amqp_cstring_bytes(exchange), amqp_cstring_bytes(key), mandatory, false,
                           &properties, amqp_cstring_bytes(body.c_str())) == AMQP_STATUS_OK, "cannot publish");
  // A returned message arrives before its confirm.
  for (bool returned = false;;) {
    amqp_frame_t frame;
    timeval limit{10, 0};
    check(amqp_simple_wait_frame_noblock(connection, &frame, &limit) == AMQP_STATUS_OK, "no confirm in time");
    if (frame.frame_type != AMQP_FRAME_METHOD) continue;
    switch (frame.payload.method.id) {
      case AMQP_BASIC_RETURN_METHOD: returned = true; break;
      case AMQP_BASIC_ACK_METHOD: check(!returned, "no queue took the command"); amqp_destroy_connection(connection); return id;
      default: throw std::runtime_error("RabbitMQ refused the command");
    }
  }
}

int main(int count, char **args) {
  try {
    check(count > 2, "usage: producer ORG TASK [EXCHANGE [ROUTING_KEY]]");
    std::cout << publish(args[1], args[2], count > 3 ? args[3] : "task.commands", count > 4 ? args[4] : "task.delete") << "\n";
  } catch (const std::exception &error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
