// Publishes one delete command with RabbitMQ.Client 7: AMQP_URL=... dotnet run ORG TASK [EXCHANGE [ROUTING_KEY]]
// With tracked confirms the await throws if the command was returned or refused. Then publish it again with the same MessageId.
using System.Text.Json;
using RabbitMQ.Client;

var exchange = args.Length > 2 ? args[2] : "task.commands";
var routingKey = args.Length > 3 ? args[3] : "task.delete";
var factory = new ConnectionFactory { Uri = new Uri(Environment.GetEnvironmentVariable("AMQP_URL")!) };
await using var connection = await factory.CreateConnectionAsync();
var confirms = new CreateChannelOptions(publisherConfirmationsEnabled: true, publisherConfirmationTrackingEnabled: true);
await using var channel = await connection.CreateChannelAsync(confirms);

var properties = new BasicProperties
{
    MessageId = Guid.NewGuid().ToString(),
    DeliveryMode = DeliveryModes.Persistent,
    ContentType = "application/json",
};
var body = JsonSerializer.SerializeToUtf8Bytes(new { org_id = args[0], task_id = args[1], requested_by = "example" });
using var limit = new CancellationTokenSource(TimeSpan.FromSeconds(10));
await channel.BasicPublishAsync(exchange, routingKey, mandatory: true, properties, body, limit.Token);
Console.WriteLine(properties.MessageId);
