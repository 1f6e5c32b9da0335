// Publishes one delete command: AMQP_URL=... go run producer.go ORG TASK [EXCHANGE [ROUTING_KEY]]
// If this fails, publish again with the same MessageId.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
)

func main() {
	log.SetFlags(0)
	id, err := publish(os.Args[1:])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(id)
}

func publish(args []string) (string, error) {
	exchange, key := "task.commands", "task.delete"
	if len(args) > 2 {
		exchange = args[2]
	}
	if len(args) > 3 {
		key = args[3]
	}
	connection, err := amqp.Dial(os.Getenv("AMQP_URL"))
	if err != nil {
		return "", err
	}
	defer connection.Close()
	channel, err := connection.Channel()
	if err != nil {
		return "", err
	}
	if err := channel.Confirm(false); err != nil {
		return "", err
	}
	returned := channel.NotifyReturn(make(chan amqp.Return, 1))
	confirmed := channel.NotifyPublish(make(chan amqp.Confirmation, 1))
	body, err := json.Marshal(map[string]string{"org_id": args[0], "task_id": args[1], "requested_by": "example"})
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	id := uuid.NewString()
	err = channel.PublishWithContext(ctx, exchange, key, true, false, amqp.Publishing{
		MessageId: id, DeliveryMode: amqp.Persistent, ContentType: "application/json", Body: body,
	})
	if err != nil {
		return "", err
	}
	select {
	case confirm, open := <-confirmed:
		if !open || !confirm.Ack {
			return "", fmt.Errorf("RabbitMQ did not take the command")
		}
	case <-ctx.Done():
		return "", ctx.Err()
	}
	// A returned message arrives before its confirm.
	select {
	case r := <-returned:
		return "", fmt.Errorf("no queue took the command: %s", r.ReplyText)
	default:
		return id, nil
	}
}
