// A plain worker with amqp091-go and net/http: delete, publish, wait for the confirm, acknowledge.
//
// At SIGTERM it stops consuming and finishes what it has. Every failure requeues the command. It has no delay queues,
// dead letters, circuit breaker, suspension, attempts, schemas or metrics, uses one token for all organisations, and ends when the broker is lost.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
)

type command struct {
	OrgID       string `json:"org_id"`
	TaskID      string `json:"task_id"`
	RequestedBy string `json:"requested_by"`
	Reason      string `json:"reason"`
}

type event struct {
	SpecVersion     string `json:"specversion"`
	ID              string `json:"id"`
	Source          string `json:"source"`
	Type            string `json:"type"`
	Subject         string `json:"subject"`
	Time            string `json:"time"`
	DataContentType string `json:"datacontenttype"`
	Data            data   `json:"data"`
}

type data struct {
	CommandID   string `json:"command_id"`
	OrgID       string `json:"org_id"`
	TaskID      string `json:"task_id"`
	Outcome     string `json:"outcome"`
	Attempts    int    `json:"attempts"`
	Ambiguous   bool   `json:"ambiguous"`
	HTTPStatus  int    `json:"http_status"`
	RequestedBy string `json:"requested_by,omitempty"`
	Reason      string `json:"reason,omitempty"`
	DurationMs  int64  `json:"duration_ms"`
}

var base = os.Getenv("TALLYFY_BASE_URL")

func main() {
	concurrency := must(strconv.Atoi(os.Getenv("CONCURRENCY")))
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = concurrency
	client := &http.Client{Transport: transport, Timeout: 15 * time.Second}
	connection := must(amqp.Dial(os.Getenv("AMQP_URL")))
	defer connection.Close()
	publishing := must(connection.Channel())
	check(publishing.Confirm(false))
	consuming := must(connection.Channel())
	check(consuming.Qos(2*concurrency, 0, false))
	deliveries := must(consuming.Consume("task.delete", "worker", false, false, false, false, nil))
	stopping, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	go func() {
		<-stopping.Done()
		check(consuming.Cancel("worker", false)) // closes deliveries
	}()
	var workers sync.WaitGroup
	for i := 0; i < concurrency; i++ {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for delivery := range deliveries {
				if err := handle(client, publishing, delivery); err != nil {
					log.Print(err)
					check(delivery.Reject(true))
				} else {
					check(delivery.Ack(false))
				}
			}
		}()
	}
	workers.Wait()
}

func handle(client *http.Client, publishing *amqp.Channel, delivery amqp.Delivery) error {
	began := time.Now()
	var c command
	if err := json.Unmarshal(delivery.Body, &c); err != nil {
		return err
	}
	url := base + "/organizations/" + c.OrgID + "/tasks/" + c.TaskID + "/delete"
	request, err := http.NewRequest(http.MethodDelete, url, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer token")
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body) // otherwise the connection is not reused
	if response.StatusCode != http.StatusNoContent {
		return fmt.Errorf("HTTP %d", response.StatusCode)
	}
	now := time.Now()
	// A repeat has the same id.
	id := uuid.NewSHA1(uuid.NameSpaceURL, []byte("task.deleted/"+delivery.MessageId)).String()
	body, err := json.Marshal(event{
		"1.0", id, "tallyfy-delete-worker", "task.deleted", c.OrgID + "/" + c.TaskID,
		now.UTC().Format("2006-01-02T15:04:05.000Z"), "application/json",
		data{delivery.MessageId, c.OrgID, c.TaskID, "deleted", 1, false, 204, c.RequestedBy, c.Reason, now.Sub(began).Milliseconds()},
	})
	if err != nil {
		return err
	}
	message := amqp.Publishing{MessageId: id, DeliveryMode: amqp.Persistent, ContentType: "application/cloudevents+json", Body: body}
	confirm, err := publishing.PublishWithDeferredConfirmWithContext(context.Background(), "task.events", "task.deleted", false, false, message)
	if err != nil {
		return err
	}
	if !confirm.Wait() {
		return fmt.Errorf("RabbitMQ did not take the event of %s", delivery.MessageId)
	}
	return nil
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func must[T any](value T, err error) T {
	check(err)
	return value
}
