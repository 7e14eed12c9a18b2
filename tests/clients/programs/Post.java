import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Path;

/** Posts files with the JDK's client as it comes: it offers HTTP/2. Arguments: a URL, then pairs of type and file. */
class Post {
  public static void main(String[] given) throws Exception {
    var client = HttpClient.newHttpClient();
    for (int at = 1; at < given.length; at += 2) {
      var request = HttpRequest.newBuilder(URI.create(given[0])).header("Content-Type", given[at])
          .POST(HttpRequest.BodyPublishers.ofFile(Path.of(given[at + 1]))).build();
      System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).body());
    }
  }
}
