// Publishes one delete command: AMQP_URL=... java -cp amqp-client.jar:slf4j-api.jar Producer.java ORG TASK [EXCHANGE [ROUTING_KEY]]
// If this fails, publish again with the same messageId.
import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import java.nio.charset.StandardCharsets;
import java.util.UUID;
import java.util.concurrent.atomic.AtomicReference;

public class Producer {
    public static void main(String[] args) throws Exception {
        String exchange = args.length > 2 ? args[2] : "task.commands";
        String routingKey = args.length > 3 ? args[3] : "task.delete";
        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(System.getenv("AMQP_URL"));
        Connection connection = factory.newConnection();
        try {
            Channel channel = connection.createChannel();
            channel.confirmSelect();
            AtomicReference<String> returned = new AtomicReference<>();
            channel.addReturnListener((code, text, x, key, properties, body) -> returned.set(text));
            String messageId = UUID.randomUUID().toString();
            AMQP.BasicProperties properties = new AMQP.BasicProperties.Builder()
                .messageId(messageId).deliveryMode(2).contentType("application/json").build();
            // Ids have no character that JSON must escape.
            String body = String.format(
                "{\"org_id\":\"%s\",\"task_id\":\"%s\",\"requested_by\":\"example\"}", args[0], args[1]);
            channel.basicPublish(exchange, routingKey, true, properties, body.getBytes(StandardCharsets.UTF_8));
            channel.waitForConfirmsOrDie(10_000);
            // A returned message arrives before its confirm.
            if (returned.get() != null) {
                throw new IllegalStateException("no queue took the command: " + returned.get());
            }
            System.out.println(messageId);
        } finally {
            connection.close();
        }
    }
}
